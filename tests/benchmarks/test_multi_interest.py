import argparse

import numpy as np
import pandas as pd
import pytest

from benchmarks import multi_interest
from benchmarks.larmi_ablation import METRICS
from benchmarks.multi_interest import Outcome, Trial, attempt, comparison, config_of, summary, tuned
from recsys_dagster.larmi.config import LARMIConfig

TINY = {"epochs": 1, "patience": 1, "batch_size": 128, "dimension": 8}


def users(values):
    return pd.DataFrame(dict.fromkeys(METRICS, values), index=pd.Index(range(len(values)), name="user_id"))


def test_settings_that_a_model_does_not_have_are_left_out():
    assert config_of("gru4rec", {"interests": 8, "epochs": 3}).epochs == 3
    assert config_of("mind", {"interests": 8, "epochs": 3}).interests == 8
    assert config_of("mind", dict.fromkeys(multi_interest.BARE, False)).recency is False


def test_comparison_with_the_best_baseline_by_hand():
    rows = {
        "larmi": [users([1.0, 0.0, 1.0, 1.0]), users([1.0, 1.0, 1.0, 1.0])],
        "mind": [users([0.0, 0.0, 1.0, 1.0]), users([0.0, 0.0, 1.0, 0.0])],
        "popularity": [users([0.0, 0.0, 0.0, 1.0])],
    }
    found = comparison(rows, "Recall@20")
    assert found["best_baseline"] == "mind"
    assert (found["larmi"], found["baseline"]) == (0.875, 0.375)
    assert found["relative"] == pytest.approx(0.875 / 0.375 - 1, abs=1e-5)
    assert found["difference"] == 0.5
    assert found["low"] < 0.5 < found["high"]
    assert 0 < found["p_value"] < 1


def test_summary_of_seeds():
    facts = {"validation_recall": 0.4, "best_epoch": 2, "seconds": 3.0, "interest_cosine": 0.2, "routing_entropy": 0.6}
    outcomes = [Outcome(users([0.0, 1.0]), facts), Outcome(users([1.0, 1.0]), {**facts, "interest_cosine": 0.4})]
    found = summary(outcomes)
    assert found["Recall@20"] == 0.75
    assert found["spread"]["HR@50"] == pytest.approx(np.std([0.5, 1.0], ddof=1), abs=1e-4)
    assert found["interest_cosine"] == 0.3
    assert "spread" not in summary(outcomes[:1])


def test_tuning_takes_the_best_of_validation_one_setting_after_the_other(monkeypatch):
    asked = []

    def pretend(trials, workers):
        for trial in trials:
            asked.append(trial.settings)
            near = -abs(trial.settings["learning_rate"] - 1e-3) - abs(trial.settings.get("interests", 4) - 6)
            yield trial, Outcome(users([0.0]), {"validation_recall": near})

    monkeypatch.setattr(multi_interest, "attempts", pretend)
    chosen = tuned(Trial("toy", "mind", TINY, 0, "cpu"), 1)
    assert chosen == {**TINY, "learning_rate": 1e-3, "interests": 6}
    assert len(asked) == len(multi_interest.RATES) + len(multi_interest.NUMBERS)
    assert tuned(Trial("toy", "gru4rec", TINY, 0, "cpu"), 1) == {**TINY, "learning_rate": 1e-3}
    assert tuned(Trial("toy", "popularity", TINY, 0, "cpu"), 1) == TINY


def test_the_benchmark_on_a_few_models():
    options = argparse.Namespace(
        dataset="sample_622", only=["larmi", "popularity", "mind"], seeds=1, tune=False, epochs=1, bare=True,
        workers=1, device="cpu",
    )  # fmt: skip
    found = multi_interest.run(options)
    assert set(found["models"]) == {"larmi", "popularity", "mind"}
    assert found["models"]["mind"]["settings"] == {
        **LARMIConfig().model_dump(include=set(multi_interest.SHARED)), "epochs": 1, "repeats": False, "recency": False
    }  # fmt: skip
    assert found["larmi_recall_20"] == pytest.approx(found["models"]["larmi"]["Recall@20"], abs=1e-4)
    assert found["best_baseline_recall_20"] == found["against_best_baseline"]["Recall@20"]["baseline"]
    assert -1 <= found["models"]["mind"]["interest_cosine"] <= 1
    options.only = ["popularity"]
    assert set(multi_interest.run(options)) == {"dataset", "seeds", "models"}  # nothing to compare


def test_a_trial_is_the_same_twice():
    trial = Trial("sample_622", "comirec_sa", TINY, 3, "cpu")
    first, second = attempt(trial), attempt(trial)
    pd.testing.assert_frame_equal(first.users, second.users)
    assert list(first.users.columns) == list(METRICS)
