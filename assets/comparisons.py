"""Group `comparisons`: the baselines that the papers compare with, trained where somebody asks for them.

The job `full_lineage` leaves them out; the job `compare` trains them, and the leaderboard has a row for each that is
there. All learn from the same split in the same loop as our models.
"""

from importlib import import_module
from typing import Any

import dagster as dg
import pandas as pd

from assets.common import sequence_data
from assets.models import TRAINED, train_into_staging
from recsys_dagster.baselines import config as settings
from recsys_dagster.models import MODELS
from resources.gpu import GpuResource
from resources.storage import AssetStore

GROUP = "comparisons"


class BPRModelConfig(settings.BPRConfig, dg.Config):
    """Settings of BPR."""


class LightGCNModelConfig(settings.LightGCNConfig, dg.Config):
    """Settings of LightGCN."""


class GRU4RecModelConfig(settings.GRU4RecConfig, dg.Config):
    """Settings of GRU4Rec."""


class CaserModelConfig(settings.CaserConfig, dg.Config):
    """Settings of Caser."""


class BERT4RecModelConfig(settings.BERT4RecConfig, dg.Config):
    """Settings of BERT4Rec."""


class MINDModelConfig(settings.MINDConfig, dg.Config):
    """Settings of MIND."""


class ComiRecSAModelConfig(settings.ComiRecSAConfig, dg.Config):
    """Settings of ComiRec-SA."""


class ComiRecDRModelConfig(settings.ComiRecDRConfig, dg.Config):
    """Settings of ComiRec-DR."""


class Re4ModelConfig(settings.Re4Config, dg.Config):
    """Settings of Re4."""


class REMIModelConfig(settings.REMIConfig, dg.Config):
    """Settings of REMI."""


def _comparison(name: str, config_class: type[dg.Config], description: str) -> dg.AssetsDefinition:
    """One asset `<name>_model` around `train_<name>` in the model's module."""

    @dg.asset(**TRAINED, name=f"{name}_model", group_name=GROUP, code_version="2", description=description)
    def trained_model(
        context: dg.AssetExecutionContext,
        config: config_class,  # type: ignore[valid-type]
        store: AssetStore,
        gpu: GpuResource,
        interactions: pd.DataFrame,
        users: pd.DataFrame,
        items: pd.DataFrame,
    ) -> dg.MaterializeResult[Any]:
        train = getattr(import_module(f"recsys_dagster.{MODELS[name][0]}"), f"train_{name}")
        data = sequence_data(context.partition_key, interactions, users, items)
        return train_into_staging(
            context, store, gpu, config, interactions, (),
            lambda runtime, output, checkpoint: train(data, config, runtime, output, checkpoint),
        )  # fmt: skip

    return trained_model


bpr_model = _comparison(
    "bpr",
    BPRModelConfig,
    "BPR (Rendle et al., 2009): user and item vectors, `-log sigmoid(s_ui - s_uj)` over seen i and unseen j.",
)
lightgcn_model = _comparison(
    "lightgcn",
    LightGCNModelConfig,
    "LightGCN (He et al., 2020): vectors averaged over the layers of `E <- D^-1/2 A D^-1/2 E` on the user-item graph "
    "of the train split, BPR loss.",
)
gru4rec_model = _comparison(
    "gru4rec",
    GRU4RecModelConfig,
    "GRU4Rec (Hidasi et al., 2016): a gated recurrent network over the history, "
    "`h_t = GRU(x_t, h_t-1)`, full cross-entropy at every position.",
)
caser_model = _comparison(
    "caser",
    CaserModelConfig,
    "Caser (Tang and Wang, 2018): horizontal and vertical convolutions over the last items, joined with a user "
    "vector: `s = W [conv(E); p_u]`.",
)
bert4rec_model = _comparison(
    "bert4rec",
    BERT4RecModelConfig,
    "BERT4Rec (Sun et al., 2019): bidirectional self-attention that fills in masked items (cloze), "
    "`L = -mean over masked m of log softmax(h_m E^T)[i_m]`.",
)
mind_model = _comparison(
    "mind",
    MINDModelConfig,
    "MIND (Li et al., 2019): dynamic routing of the history to capsules, `c_k = squash(sum_i w_ik S e_i)`, each an "
    "interest; the interest that likes the target best learns.",
)
comirec_sa_model = _comparison(
    "comirec_sa",
    ComiRecSAModelConfig,
    "ComiRec-SA (Cen et al., 2020): `V_u = H softmax(W2' tanh(W1 H))'`, an interest for each row of the attention.",
)
comirec_dr_model = _comparison(
    "comirec_dr",
    ComiRecDRModelConfig,
    "ComiRec-DR (Cen et al., 2020): dynamic routing with a map for each interest, `c_k = squash(sum_i w_ik W_k e_i)`.",
)
re4_model = _comparison(
    "re4",
    Re4ModelConfig,
    "Re4 (Zhang et al., 2022): self-attentive interests, and losses that look back: "
    "`L = L_next + L_contrast + L_attend + L_construct`, each with its weight.",
)
remi_model = _comparison(
    "remi",
    REMIModelConfig,
    "REMI (Xie et al., 2023): ComiRec-SA with interest-aware hard negatives, drawn by `softmax(beta * score)`, and "
    "routing regularisation.",
)
