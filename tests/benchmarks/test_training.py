from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import training
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import SASRec
from tests.conftest import toy_interactions


@pytest.fixture
def sasrec(toy_data):
    torch.manual_seed(0)
    config = SASRecConfig(batch_size=8, dimension=8)
    return training.Ours(SASRec(config, n_items=24, max_length=6), toy_data, config)


def test_a_window_trains_so_many_steps_and_counts_them(sasrec, toy_data):
    before = sasrec.model.items.weight.detach().clone()
    found = sasrec.window(3)
    assert not torch.equal(before, sasrec.model.items.weight)
    assert found["steps"] == 3
    assert 3 <= found["targets"] == found["items"] <= found["cells"]
    more = sasrec.window(70)  # at one user a batch, into the next epoch
    assert more["targets"] > sasrec.batches.positions


def test_turns_give_medians_of_the_measured_windows(capsys):
    class Fake:
        batch_size = 2 * training.BATCH

        def __init__(self, seconds):
            self.seconds, self.asked = iter(seconds), []

        def window(self, steps):
            self.asked.append(steps)
            return {"seconds": next(self.seconds), "steps": steps, "targets": 30, "items": 60, "cells": 90}

    trainees = {"a": Fake([99, 1, 2, 4]), "b": Fake([99, 10, 10, 10])}
    rates = training.take_turns(trainees, steps=8, rounds=3)
    assert rates["a"] == {
        "targets_per_second": 15.0, "items_per_second": 30.0, "cells_per_second": 45.0, "steps_per_second": 2.0
    }  # fmt: skip
    assert rates["b"]["targets_per_second"] == 3.0
    assert trainees["a"].asked == [4] * 4  # batches twice as large, half as many steps


def test_items_only_is_g2rec_without_profiles(toy_data):
    models, facts = training.g2rec_models(toy_data, training.validation_links(toy_interactions()))
    names = {"items", "fused", "interleaved"}
    assert set(models) == names | {name + training.WHOLE for name in names}
    assert facts["prototypes"] > 0
    plain = models["items"].model
    batch = next(iter(models["items"].batches.batches.epoch(np.random.default_rng(0))))
    with torch.no_grad():
        plain.eval()
        before = plain.loss(batch, 0)[0]
        plain.prototypes.add_(1.0)
        assert torch.equal(before, plain.loss(batch, 0)[0])
        x = plain.item_vectors()
        states = plain.backbone(plain._tokens(batch.items, plain.vectors()))
        assert states.shape == (len(batch.items), batch.items.shape[1] + 1, 64)
        fused = models["fused"].model.eval()
        fused.load_state_dict(plain.state_dict())
        same = fused.backbone(fused._tokens(batch.items, (x, torch.zeros_like(x), x)))
    torch.testing.assert_close(states, same)


def test_the_benchmark_without_peers(toy_data, monkeypatch):
    monkeypatch.setattr(training, "load", lambda dataset: (toy_data, SimpleNamespace(interactions=toy_interactions())))
    options = training.argparse.Namespace(
        model="g2rec", dataset="toy", device="cpu", steps=2, rounds=1, without=["recbole", "cornac"],
        python_env_recbole=None, python_env_cornac=None,
    )  # fmt: skip
    found = training.run(options)
    assert found["sasrec"]["ours"]["targets_per_second"] > 0
    for layout in ("fused", "interleaved"):
        for part in ("", "_training", "_inference", "_inference_with_decoding"):
            assert found[f"overhead_{layout}{part}"] > 0
    assert found["overhead_fused"] == found["overhead_fused_training"]
