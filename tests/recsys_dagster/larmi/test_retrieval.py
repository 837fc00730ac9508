import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.histories import TEST, Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.export import read_export, write_export
from recsys_dagster.larmi.retrieval import FlatIndex, faiss_index, retrieve, vectors_of
from recsys_dagster.training.ranking import top_n
from tests.recsys_dagster.larmi.test_larmi_model import build, set_repeats


@pytest.fixture(scope="module")
def model(toy_data):
    model = build(toy_data)
    with torch.no_grad():
        set_repeats(model)
        model.repeats.by_lag.add_(0.3)  # items of the history move up and down a long way
    return model


@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_list_is_that_of_the_whole_catalogue(toy_data, model, mask_seen):
    history = toy_data.history(TEST)
    vectors = vectors_of(model, history)
    index = FlatIndex(vectors.items)
    users = np.arange(toy_data.n_users)
    items, scores = top_n(model, users, history, n=7, mask_seen=mask_seen)
    for user in users:
        found, values = retrieve(vectors, index, user, 7, mask_seen=mask_seen)
        np.testing.assert_allclose(values, scores[user], rtol=1e-4, atol=1e-4)
        assert found.tolist() == items[user].tolist()


def test_interests_that_do_not_exist_are_not_exported(toy_data, model):
    short = Histories(np.minimum(np.arange(4), 1) * 2, np.array([3, 4], np.int32), toy_data.n_items)
    vectors = vectors_of(model, short)
    assert vectors.users.tolist() == [0, 0]  # two items, two interests; users 1 and 2 have no history
    assert vectors.history_items.tolist() == [3, 4]
    found, scores = retrieve(vectors, FlatIndex(vectors.items), 1, 5, mask_seen=True)
    assert len(found) == len(scores) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 4), n=st.integers(1, 30), mask_seen=st.booleans())
def test_retrieval_equals_scoring_everything(seed, k, n, mask_seen):
    from recsys_dagster.larmi.retrieval import Vectors

    rng = np.random.default_rng(seed)
    items, interests = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (20, k))
    seen = rng.choice(20, size=rng.integers(1, 8), replace=False)
    bias = rng.normal(scale=4, size=len(seen)).astype(np.float32)
    vectors = Vectors(np.full(k, 3), interests, items, np.full(len(seen), 3), seen, bias)
    want = (interests @ items.T).max(0)
    want[seen] = -np.inf if mask_seen else want[seen] + bias
    order = np.argsort(-want, kind="stable")[:n]
    order = order[np.isfinite(want[order])]
    found, scores = retrieve(vectors, FlatIndex(items), 3, n, mask_seen=mask_seen)
    np.testing.assert_allclose(scores, want[order], rtol=1e-5)
    assert found.tolist() == order.tolist()


def test_faiss_finds_the_same(toy_data, model):
    pytest.importorskip("faiss")
    vectors = vectors_of(model, toy_data.history(TEST))
    exact, flat = FlatIndex(vectors.items), faiss_index(vectors.items)
    graph = faiss_index(vectors.items, "HNSW8")
    for user in range(20):
        want = retrieve(vectors, exact, user, 5, mask_seen=True)
        for index in (flat, graph):  # of 24 items a graph finds all too
            np.testing.assert_array_equal(want[0], retrieve(vectors, index, user, 5, mask_seen=True)[0])
    with pytest.raises(RecsysError, match="cannot make an index 'Nonsense'"):
        faiss_index(vectors.items, "Nonsense")


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RecsysError, match=r"recsys-dagster\[faiss\]"):
        faiss_index(np.eye(3, dtype=np.float32))


def test_an_index_may_find_fewer(toy_data, model):
    class Lazy:
        def search(self, queries, n):
            found = np.full((len(queries), n), -1)
            found[:, 0] = 9
            return np.zeros((len(queries), n), np.float32), found

    vectors = dataclasses.replace(
        vectors_of(model, toy_data.train),
        history_items=np.empty(0, np.int64),
        history_users=np.empty(0, np.int64),
        history_bias=np.empty(0, np.float32),
    )
    assert retrieve(vectors, Lazy(), 0, 5, mask_seen=True)[0].tolist() == [9]


def test_an_export_says_all_that_serving_needs(toy_data, model, tmp_path):
    users = pd.DataFrame({"user_id": range(60), "source_key": [f"u{user}" for user in range(60)]})
    items = pd.DataFrame({"item_id": range(24), "source_key": [f"i{item}" for item in range(24)]})
    vectors = vectors_of(model, toy_data.whole())
    folder = tmp_path / "new" / "export"
    facts = write_export(folder, vectors, users, items, dataset="toy", mask_seen=False)
    assert facts["users"] == 60
    read, manifest = read_export(folder)
    assert manifest == facts
    for name, value in dataclasses.asdict(vectors).items():
        np.testing.assert_array_equal(getattr(read, name), value)
    # as docs/serving.md does it, from the files alone
    table = pd.read_parquet(folder / "user_interests.parquet")
    catalogue = pd.read_parquet(folder / "item_vectors.parquet")
    own = table[table["user"] == "u7"]
    assert own["interest"].tolist() == list(range(np.count_nonzero(vectors.users == 7)))
    scores = (np.stack(own["vector"]) @ np.stack(catalogue["vector"]).T).max(0)
    past = pd.read_parquet(folder / "history.parquet").query("user_id == 7")
    scores[past["item_id"]] += past["bias"]
    want, _ = top_n(model, np.array([7]), toy_data.whole(), n=5, mask_seen=False)
    best = np.argsort(-scores, kind="stable")[:5]
    assert catalogue["item"].iloc[best].tolist() == [f"i{item}" for item in want[0]]
    with pytest.raises(FileExistsError):
        write_export(folder, vectors, users, items, dataset="toy", mask_seen=False)
    with pytest.raises(RecsysError, match="not an export"):
        read_export(tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
