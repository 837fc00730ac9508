"""Every trained model by name, and how to read one back from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recsys_dagster.errors import RecsysError

if TYPE_CHECKING:
    from recsys_dagster.training.loop import SequentialModel
    from recsys_dagster.training.ranking import Scorer

MODEL_NAMES = ("popularity", "sasrec", "larmi", "g2rec")
"""Keys of the models; the asset of each is called ``<key>_model``."""


def load_model(directory: Path, device: str = "cpu") -> Scorer:
    """Read a model directory (model.safetensors, config.json) and return the model, ready to score.

    Raises:
        RecsysError: the directory names a model that this version does not know, or holds other tensors than it needs.
    """
    # each family brings its own heavy imports: only who loads a model pays for them
    from recsys_dagster.training.artifact import read_config, read_state

    contents, state = read_config(directory), read_state(directory, device)
    name, settings, shape = contents["model"], contents["config"], contents["shape"]
    if name == "popularity":
        from recsys_dagster.baselines.pop import Popularity

        return Popularity(state["counts"])
    if name == "sasrec":
        from recsys_dagster.baselines.config import SASRecConfig
        from recsys_dagster.baselines.sasrec import SASRec

        model: SequentialModel = SASRec(SASRecConfig(**settings), **shape)
    elif name == "larmi":
        from recsys_dagster.larmi.config import LARMIConfig
        from recsys_dagster.larmi.model import LARMI

        model = LARMI(LARMIConfig(**settings), **shape)
    elif name == "g2rec":
        from recsys_dagster.g2rec.config import G2RecConfig
        from recsys_dagster.g2rec.model import G2Rec

        model = G2Rec(G2RecConfig(**settings), **shape)
    else:
        raise RecsysError(
            f"{directory / 'config.json'}: model is {name!r}, expected one of {', '.join(MODEL_NAMES)}.",
            mend="materialize the model again with this version.",
        )
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
