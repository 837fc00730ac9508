import argparse

import pytest

from benchmarks import baselines
from recsys_dagster.baselines.config import BPRConfig


def test_rows_are_means_over_seeds(monkeypatch):
    monkeypatch.setattr("benchmarks.multi_interest.config_of", lambda name, settings: BPRConfig(epochs=1))
    options = argparse.Namespace(dataset="sample", only=["popularity", "bpr"], seeds=2, device="cpu", threads=1)
    found = baselines.run(options)["models"]
    assert set(found) == {"popularity", "bpr"}
    assert "spread" not in found["popularity"]  # it has no seed
    assert found["popularity"]["full_HR@10"] == pytest.approx(0.0583)  # what `make demo` tells of it
    assert found["bpr"]["spread"]["sampled_99_MRR"] > 0
    assert found["bpr"]["best_epoch"] == 1


def test_our_own_models_are_no_baselines():
    assert {"larmi", "g2rec"}.isdisjoint(baselines.NAMES)
    assert {"popularity", "sasrec", "mind", "lightgcn"} <= set(baselines.NAMES)
