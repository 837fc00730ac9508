"""What many tests share: small data with something to learn."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import services

# Small models gain nothing from more threads, and on a shared machine threads that wait for each other lose much. Set
# before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

for variable in ("RECSYS_ASSETS", "RECSYS_POSTGRES_URL"):  # no test may write where somebody works
    os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def s3_store():
    """A real S3 store with a bucket, and its keys in the environment of this process."""
    if reason := services.why_no_s3():
        pytest.skip(reason)
    with services.s3() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        yield store


def toy_interactions(n_users: int = 60, n_items: int = 24, seed: int = 0) -> pd.DataFrame:
    """Users who walk round one of two circles of items; the last item is test, the one before it validation."""
    rng = np.random.default_rng(seed)
    half = n_items // 2
    rows = []
    for user in range(n_users):
        start, side, length = rng.integers(half), user % 2, rng.integers(5, 10)
        for position in range(length):
            item = side * half + (start + position) % half
            split = 2 if position == length - 1 else 1 if position == length - 2 else 0
            rows.append((user, item, position, position, split))
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position", "split"])
    kinds = {"user_id": "int32", "item_id": "int32", "timestamp": "int64", "position": "int32", "split": "int8"}
    return table.astype(kinds)


@pytest.fixture(scope="session")
def toy_data():
    """`SequenceData` of `toy_interactions`: 60 users, 24 items."""
    from recsys_dagster.training.data import SequenceData

    return SequenceData.from_tables(toy_interactions(), n_users=60, n_items=24, max_length=6)


@pytest.fixture
def small_cutoff(monkeypatch):
    """Choose epochs by Recall@2: of 24 toy items the 20 best would hold nearly everything."""
    from recsys_dagster.training import loop

    monkeypatch.setattr(loop, "VALIDATION_CUTOFF", 2)
