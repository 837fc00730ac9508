"""Every trained model by name, and how to read one back from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_dagster.errors import RecsysError

if TYPE_CHECKING:
    from recsys_dagster.training.loop import SequentialModel
    from recsys_dagster.training.ranking import Scorer

MODELS = {
    "bpr": ("baselines.bpr", "BPRConfig", "BPR"),
    "lightgcn": ("baselines.lightgcn", "LightGCNConfig", "LightGCN"),
    "gru4rec": ("baselines.gru4rec", "GRU4RecConfig", "GRU4Rec"),
    "caser": ("baselines.caser", "CaserConfig", "Caser"),
    "bert4rec": ("baselines.bert4rec", "BERT4RecConfig", "BERT4Rec"),
    "mind": ("baselines.mind", "MINDConfig", "MIND"),
    "comirec_sa": ("baselines.comirec", "ComiRecSAConfig", "ComiRecSA"),
    "comirec_dr": ("baselines.comirec", "ComiRecDRConfig", "ComiRecDR"),
    "re4": ("baselines.re4", "Re4Config", "Re4"),
    "remi": ("baselines.remi", "REMIConfig", "REMI"),
    "sasrec": ("baselines.sasrec", "SASRecConfig", "SASRec"),
    "larmi": ("larmi.train", "LARMIConfig", "LARMI"),
    "g2rec": ("g2rec.model", "G2RecConfig", "G2Rec"),
}
"""Module of each model that the loop trains, the class of its settings (in `config` beside it) and its own class.

They are names, not imports: each family brings heavy imports of its own, for which only who loads a model pays.
"""

MODEL_NAMES = ("popularity", *MODELS)
"""Keys of the models; the asset of each is called ``<key>_model``."""

CORE_MODELS = ("popularity", "sasrec", "larmi", "g2rec")
"""The two recommenders and what each of them has to beat."""


@dataclass(frozen=True)
class StoredModel:
    """A model directory that workers open for themselves.

    Attributes:
        directory: on a file system that all workers reach.
        device: where the model scores.
        threads: of torch, those of the process that asks: their number may change the last bits of a score.
    """

    directory: Path
    device: str
    threads: int

    @classmethod
    def at(cls, directory: Path, device: str) -> StoredModel:
        """With as many threads as this process."""
        import torch

        return cls(directory, device, torch.get_num_threads())

    def open(self) -> Scorer:
        """Read it."""
        import torch

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        return load_model(self.directory, self.device)


def load_model(directory: Path, device: str = "cpu") -> Scorer:
    """Read a model directory (model.safetensors, config.json) and return the model, ready to score.

    Raises:
        RecsysError: the directory names a model that this version does not know, or holds other tensors than it needs.
    """
    from recsys_dagster.training.artifact import read_config, read_state

    contents, state = read_config(directory), read_state(directory, device)
    name = contents["model"]
    if name == "popularity":
        from recsys_dagster.baselines.pop import Popularity

        return Popularity(state["counts"])
    if name not in MODELS:
        raise RecsysError(
            f"{directory / 'config.json'}: model is {name!r}, expected one of {', '.join(MODEL_NAMES)}.",
            mend="materialize the model again with this version.",
        )
    module, config_class, model_class = MODELS[name]
    family = module.split(".")[0]
    config = getattr(import_module(f"recsys_dagster.{family}.config"), config_class)(**contents["config"])
    build = getattr(import_module(f"recsys_dagster.{module}"), model_class)
    model: SequentialModel = build(config, **contents["shape"])
    try:
        model.load_learned_state(state)
    except (KeyError, RuntimeError) as error:
        raise RecsysError(
            f"{directory / 'model.safetensors'} does not fit its config.json ({error}).",
            mend="materialize the model again with this version.",
        ) from error
    model.to(device)
    model.eval()
    return model
