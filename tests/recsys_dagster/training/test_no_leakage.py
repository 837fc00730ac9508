"""What stands in the validation and test splits changes nothing that training sees."""

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import item_embeddings, train_sasrec
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.g2rec.model import train_g2rec
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.g2rec.tokens import interest_tokens
from recsys_dagster.training.batching import PairBatches, TrainBatches
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.runtime import Runtime
from tests.conftest import toy_interactions

SMALL = {"dimension": 16, "heads": 2, "layers": 1, "epochs": 2, "batch_size": 16}
CLUSTERING = SoftConfig(gammas=[1.0, 3.0], temperatures=[0.02, 0.02], rho=3)


def with_other_targets():
    """The same log, but with random items in the places of validation and test."""
    log = toy_interactions()
    held = log["split"] > 0
    log.loc[held, "item_id"] = np.random.default_rng(9).integers(0, 24, held.sum()).astype("int32")
    return log


@pytest.fixture(scope="module")
def two():
    logs = (toy_interactions(), with_other_targets())
    assert not logs[0].equals(logs[1])
    return [SequenceData.from_tables(log, n_users=60, n_items=24, max_length=6) for log in logs]


def test_batches_and_graph(two):
    for make in (lambda data: TrainBatches(data.train, 16, 6), lambda data: PairBatches(data.train, 16)):
        epochs = [list(make(data).epoch(np.random.default_rng(0))) for data in two]
        for first, second in zip(*epochs, strict=True):
            for name in vars(first).keys() - {"part_of"}:
                assert getattr(first, name).equal(getattr(second, name))
    graphs = [build_graph(data.train) for data in two]
    pd.testing.assert_frame_equal(*graphs)
    pd.testing.assert_frame_equal(*(soft_memberships(graph, 24, CLUSTERING)[0] for graph in graphs))


def test_losses_and_vectors_of_both_stages(two, tmp_path, monkeypatch):
    from recsys_dagster.training import checkpoint

    # which epoch is kept is the validation split's choice: keep the last one here
    monkeypatch.setattr(
        checkpoint.State, "best_value", property(lambda self: -1.0, lambda self, value: None), raising=False
    )
    curves, vectors = [], []
    for number, data in enumerate(two):
        folder = tmp_path / str(number)
        train_sasrec(data, SASRecConfig(**SMALL), Runtime(), folder / "sasrec")
        embeddings = item_embeddings(folder / "sasrec")
        graph = build_graph(data.train)
        table, _ = soft_memberships(graph, 24, CLUSTERING)
        tokens = interest_tokens(table, embeddings)
        train_g2rec(data, graph, table, tokens, embeddings, G2RecConfig(**SMALL), Runtime(), folder / "g2rec")
        curves.append([pd.read_parquet(folder / name / "training.parquet")["loss"] for name in ("sasrec", "g2rec")])
        vectors.append(embeddings)
    np.testing.assert_array_equal(*vectors)
    for first, second in zip(*curves, strict=True):
        pd.testing.assert_series_equal(first, second)
