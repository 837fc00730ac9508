"""Models outlive the ids that they were trained on: what is carried over by key, and what is refused."""

import json

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import torch

from assets.common import data_fingerprint
from assets.g2rec import item_embeddings
from assets.models import require_current
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import SASRec
from recsys_dagster.data.item_keys import write_item_keys
from recsys_dagster.errors import RecsysError
from recsys_dagster.training.artifact import save_model


@pytest.fixture
def sasrec(tmp_path):
    config, shape = SASRecConfig(dimension=8, heads=1, layers=1), {"n_items": 3, "max_length": 4}
    torch.manual_seed(0)
    model = SASRec(config, **shape)
    history = pd.DataFrame({"epoch": [0]})
    save_model(
        tmp_path, name="sasrec", config=config.model_dump(), shape=shape, state=model.state_dict(), history=history
    )
    return tmp_path, model.items.weight.detach().numpy()


def embeddings_for(directory, keys: list[str]) -> tuple[np.ndarray, int]:
    items = pd.DataFrame({"item_id": range(len(keys)), "source_key": keys})
    with dg.build_asset_context(partition_key="sample") as context:
        result = item_embeddings(context, sasrec_model=directory, items=items)
    return result.value["item_embeddings"], result.metadata["untrained_items"]


def test_embeddings_follow_the_keys_when_ids_change(sasrec):
    directory, vectors = sasrec
    write_item_keys(directory, ["a", "b", "c"])
    found, untrained = embeddings_for(directory, ["c", "new", "a"])
    assert untrained == 1
    np.testing.assert_allclose(found, [vectors[2], (vectors[0] + vectors[2]) / 2, vectors[0]], atol=1e-6)


def test_a_model_without_keys_is_taken_as_it_is_unless_it_cannot_fit(sasrec):
    directory, vectors = sasrec
    np.testing.assert_array_equal(embeddings_for(directory, ["x", "y", "z"])[0], vectors)
    with pytest.raises(
        RecsysError, match=r"has 3 items and no keys of them, there are 2 now.*the job train for sample"
    ):
        embeddings_for(directory, ["x", "y"])


def test_models_of_other_interactions_are_refused(tmp_path):
    log = pd.DataFrame({"user_id": [0, 0], "item_id": [0, 1]})
    for name, data in (("old", "0" * 12), ("now", data_fingerprint(log))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runtime.json").write_text(json.dumps({"interactions": data}))
    (tmp_path / "popularity").mkdir()  # has no record
    require_current({name: tmp_path / name for name in ("now", "popularity")}, log, "shop")
    with pytest.raises(RecsysError, match=r"'shop' was read again since old was trained.*run the job train for shop"):
        require_current({name: tmp_path / name for name in ("now", "old")}, log, "shop")
