import json

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.common import Stopwatch, data_fingerprint, fingerprint, materialized, plain, tag_run
from assets.data import with_truth
from assets.partitions import datasets
from assets.tables import TABLES, column_schema, conform


def test_schema_and_conform_come_from_one_place():
    frame = pd.DataFrame({"item_ids": [[1, 2], []], "user_id": [0, 1]})
    table = conform(frame, "negatives")
    assert (
        list(table.columns)
        == [column.name for column in column_schema("negatives").columns]
        == list(TABLES["negatives"])
    )
    assert table["user_id"].dtype == np.int32
    assert table["item_ids"].iloc[1].dtype == np.int32


def test_conform_refuses_missing_columns_and_values_that_do_not_fit():
    with pytest.raises(
        TypeError, match=r"users: expected the columns \['source_key', 'user_id'\], found \['user_id'\]"
    ):
        conform(pd.DataFrame({"user_id": [0]}), "users")
    with pytest.raises(TypeError, match=r"users\.user_id: a value does not fit int32"):
        conform(pd.DataFrame({"user_id": [2**40], "source_key": ["a"]}), "users")


def test_fingerprints_change_with_any_setting_number_and_text():
    class Config(dg.Config):
        epochs: int = 3

    assert fingerprint(Config()) == fingerprint(Config(epochs=3)) != fingerprint(Config(epochs=4))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert data_fingerprint(frame) == data_fingerprint(frame.copy())
    assert data_fingerprint(frame) != data_fingerprint(frame.assign(a=[1, 3]))
    assert data_fingerprint(frame) != data_fingerprint(frame.assign(b=["x", "z"]))


def test_metadata_is_plain_and_finite():
    kept = plain(
        {"a": np.float32(0.5), "b": float("nan"), "c": None, "d": [np.int64(1)], "e": dg.MetadataValue.md("x")}
    )
    assert set(kept) == {"a", "d", "e"}
    assert kept["a"] == 0.5
    assert isinstance(kept["a"], float)
    assert json.dumps(kept["d"].value) == "[1]"


def test_truth_follows_the_items():
    items = pd.DataFrame({"item": ["x", "y"]})
    truth = pd.DataFrame({"item": ["y"], "interest": [3], "second_interest": [-1]})
    assert with_truth(items, truth)["planted_interest"].tolist() == [-1, 3]
    assert with_truth(items, None)["planted_second_interest"].tolist() == [-1, -1]


def test_runs_can_be_found_by_dataset_model_and_seed():
    def asset_of(name, seeds):
        @dg.asset(name=name, partitions_def=datasets)
        def trained():
            for seed in seeds:
                tag_run(model=name, seed=seed)
            return materialized(1, {}, Stopwatch())

        return trained

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            [asset_of("sasrec", [0]), asset_of("larmi", [0, 1])],
            instance=instance,
            partition_key="sample",
            resources={"io_manager": dg.InMemoryIOManager()},
        )
        (run,) = instance.get_runs()
        told = {name: value for name, value in run.tags.items() if name.startswith("recsys/")}
        assert told == {"recsys/dataset": "sample", "recsys/model": "larmi,sasrec", "recsys/seed": "0,1"}


def test_outside_a_run_there_is_nothing_to_tag():
    tag_run(model="larmi")
