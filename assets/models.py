"""Groups `baselines`, `larmi` and `g2rec`: the four trained models, each a directory without pickles."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.common import (
    COMMON,
    ON_A_GPU,
    Stopwatch,
    data_fingerprint,
    fingerprint,
    materialized,
    picture,
    runtime_of,
    sequence_data,
    tag_run,
)
from assets.exhaustion import exhaustion_told
from assets.larmi import MIND, interest_metadata
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.data.item_keys import write_item_keys
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.training.config import TrainingConfig
from resources.gpu import GpuResource
from resources.storage import AssetStore
from resources.stored_table import StoredTable

if TYPE_CHECKING:
    from recsys_dagster.data.features import ItemFeatures
    from recsys_dagster.training.runtime import Runtime

RUNTIME_FILE = "runtime.json"
"""File in a model's directory that says on what, with which seed and on which interactions it was trained."""

TRAINED: dict[str, Any] = {
    **COMMON,
    "kinds": {"pytorch", "safetensors"},
    "pool": "gpu",
    "op_tags": ON_A_GPU,
    "io_manager_key": "directory_io",
}

SEED_FOLDER = "seed-"
"""Start of the names of the folders of further seeds in a model's directory."""


def trained_models(directory: Path) -> list[Path]:
    """The model of each seed, the first one first."""
    further = sorted(directory.glob(f"{SEED_FOLDER}*"), key=lambda path: int(path.name.removeprefix(SEED_FOLDER)))
    return [directory, *further]


def trained_on(directory: Path) -> dict[str, Any]:
    """What is recorded of a stored model's training: device, seed, interactions. Popularity has no record."""
    runtime = directory / RUNTIME_FILE
    facts: dict[str, Any] = json.loads(runtime.read_text(encoding="utf-8")) if runtime.exists() else {}
    return facts


def require_current(directories: Mapping[str, Path], interactions: pd.DataFrame | StoredTable, dataset: str) -> None:
    """Refuse models whose ids are not those of the stored tables.

    Args:
        directories: of stored models, by name.
        interactions: the stored log.
        dataset: for the message.

    Raises:
        RecsysError: a model was trained on other interactions.
    """
    now = data_fingerprint(interactions)
    stale = [name for name, path in directories.items() if trained_on(path).get("interactions", now) != now]
    if stale:
        raise RecsysError(
            f"dataset '{dataset}' was read again since {', '.join(stale)} was trained; users and items have other ids.",
            mend=f"train again: run the job train for {dataset}.",
        )


class SASRecModelConfig(SASRecConfig, dg.Config):
    """Settings of SASRec."""


class LARMIModelConfig(LARMIConfig, dg.Config):
    """Settings of LARMI."""


class G2RecModelConfig(G2RecConfig, dg.Config):
    """Settings of G2Rec."""


def train_into_staging(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    gpu: GpuResource,
    config: TrainingConfig,
    interactions: pd.DataFrame,
    inputs: tuple[pd.DataFrame, ...],
    train: Callable[..., dict[str, Any]],
) -> dg.MaterializeResult[Any]:
    """Call a training function into a staging folder, with a checkpoint that belongs to this very input and config.

    With several seeds the first model lies in the folder itself, the others in folders in it (see `trained_models`).
    """
    from recsys_dagster.evaluation.plots import training_curves

    watch = Stopwatch()
    asset, partition = context.asset_key.to_user_string(), context.partition_key
    runtime = runtime_of(gpu)
    output = store.staging(asset, partition)
    data, learned_from = data_fingerprint(interactions), data_fingerprint(*inputs)
    settings = config.model_dump(exclude={"seeds"})
    facts: list[dict[str, Any]] = []
    try:
        for seed in range(runtime.seed, runtime.seed + config.seeds):
            tag_run(model=asset.removesuffix("_model"), seed=seed)
            run = runtime.model_copy(update={"seed": seed})
            folder = output if seed == runtime.seed else output / f"{SEED_FOLDER}{seed}"
            mark = fingerprint(settings, run, data, learned_from)
            with exhaustion_told(context, config):
                facts.append(dict(train(run, folder, store.checkpoint(asset, partition, mark))))
                about = {**run.model_dump(), "interactions": data}
                (folder / RUNTIME_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    metadata = {
        **gpu.usage(runtime.device),
        **{name: value for name, value in facts[0].items() if name != "seconds"},
        "training_seconds": sum(each["seconds"] for each in facts),
        "validation_recalls": [each["validation_recall"] for each in facts],
        "training_curve": picture(training_curves, pd.read_parquet(output / "training.parquet")),
    }
    return materialized(output, metadata, watch, config, runtime)


def _entries(features: "ItemFeatures | None") -> tuple[pd.DataFrame, ...]:
    """Which item has which feature, as part of what a training run stands on."""
    return () if features is None else (pd.DataFrame(features.features), pd.DataFrame(features.indptr))


@dg.asset(**COMMON, group_name="baselines", kinds={"safetensors"}, code_version="1", io_manager_key="directory_io")
def popularity_model(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """The same ranking for everybody: `score(i) = train interactions with i`. What every model has to beat."""
    from recsys_dagster.baselines.pop import train_popularity

    watch = Stopwatch()
    output = store.staging("popularity_model", context.partition_key)
    facts = train_popularity(sequence_data(context.partition_key, interactions, users, items), output)
    return materialized(output, facts, watch)


@dg.asset(**TRAINED, group_name="baselines", code_version="2")
def sasrec_model(
    context: dg.AssetExecutionContext,
    config: SASRecModelConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """SASRec (Kang and McAuley, 2018): causal self-attention over the history, full cross-entropy at every position.

    `L = -mean_t log softmax(h_t E^T)[i_t+1]`, h_t the state after the first t items, E the item vectors.
    """
    from recsys_dagster.baselines.sasrec import train_sasrec
    from recsys_dagster.data.features import item_features

    data = sequence_data(context.partition_key, interactions, users, items)
    features = item_features(items) if config.features else None

    def trained(runtime: Any, output: Path, checkpoint: Path) -> dict[str, Any]:
        facts = train_sasrec(data, config, runtime, output, checkpoint, features)
        write_item_keys(output, items["source_key"].tolist())  # its vectors outlive the ids of today
        return facts

    return train_into_staging(context, store, gpu, config, interactions, _entries(features), trained)


@dg.asset(**TRAINED, group_name="larmi", code_version="4")
def larmi_model(
    context: dg.AssetExecutionContext,
    config: LARMIModelConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """LARMI (Eq. 2-4, 10-15): interests from the clusters of a language model, aligned with capsules of behaviour.

    `L = L_rec + lambda * L_contrastive`, the latter on the selected synthesized users every round(1 / lambda) steps; an
    item's score is the largest over the user's interests.
    """
    from recsys_dagster.larmi.train import train_larmi

    data = sequence_data(context.partition_key, interactions, users, items)
    mind = store.previous_directory(MIND, context.partition_key)
    if mind is not None and trained_on(mind).get("interactions") != data_fingerprint(interactions):
        mind = None  # of another log: its item ids mean other items

    def train(runtime: "Runtime", output: Path, checkpoint: Path) -> dict[str, Any]:
        facts = train_larmi(
            data, user_clusters, representative_clusters, config, runtime, output, checkpoint
        )  # fmt: skip
        return {**facts, **(interest_metadata(output, data, user_clusters, mind) if runtime.seed == gpu.seed else {})}

    return train_into_staging(
        context, store, gpu, config, interactions,
        (user_clusters, representative_clusters), train,
    )  # fmt: skip


@dg.asset(**TRAINED, group_name="g2rec", code_version="6")
def g2rec_model(
    context: dg.AssetExecutionContext,
    config: G2RecModelConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    coengagement_graph: pd.DataFrame,
    soft_memberships: pd.DataFrame,
    interest_tokens: dict[str, np.ndarray],
    item_embeddings: dict[str, np.ndarray],
) -> dg.MaterializeResult[Any]:
    """G2Rec (Eq. 8-13): a Llama-architecture decoder over items and interest tokens.

    `L = L_item + lambda * L_profile`: the item loss at the token positions, the profile loss at the item positions.
    Prototypes are shared parameters that every item borrows strength from.
    """
    from recsys_dagster.data.features import item_features
    from recsys_dagster.g2rec.model import train_g2rec

    features = item_features(items) if config.features else None
    data, embeddings = (
        sequence_data(context.partition_key, interactions, users, items),
        item_embeddings["item_embeddings"],
    )
    return train_into_staging(
        context, store, gpu, config, interactions,
        (coengagement_graph, soft_memberships, pd.DataFrame(embeddings), *_entries(features)),
        lambda runtime, output, checkpoint: train_g2rec(
            data, coengagement_graph, soft_memberships, interest_tokens, embeddings, config, runtime, output,
            checkpoint, features,
        ),
    )  # fmt: skip
