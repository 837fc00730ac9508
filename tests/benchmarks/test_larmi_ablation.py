"""The benchmark of LARMI's parts: each variant is trained once, and what is compared is what was measured."""

import pytest

from benchmarks import larmi_ablation
from benchmarks.larmi_ablation import METRICS, PARTS, WHOLE, Trials, Variant


@pytest.fixture(scope="module")
def trials():
    return Trials("sample_622", 1, {"epochs": 1})


def test_each_variant_is_trained_once(trials, monkeypatch):
    calls = []
    real = larmi_ablation.train_larmi

    def counted(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(larmi_ablation, "train_larmi", counted)
    whole = trials.measured(Variant())
    assert set(METRICS) < set(whole)
    assert whole["interest_cosine"] <= 1
    assert whole["coarseness_concentration_low"] <= whole["coarseness_concentration"]
    without = Variant({"semantic": False})
    found = trials.against(without, Variant())
    assert found["difference"] == pytest.approx(trials.measured(without)["Recall@20"] - whole["Recall@20"], abs=2e-4)
    assert found["low"] <= found["difference"] <= found["high"]
    assert trials.against(Variant(), Variant())["difference"] == 0
    assert len(calls) == 2


def test_ablations_change_what_they_say(trials):
    for part in PARTS.values():
        settings = [trials._key(variant) for variant in part.values()]
        assert len(set(settings)) == len(settings)
    assert trials._key(PARTS["lambda"]["periodic, lambda 0.1"]) == trials._key(Variant())
    assert trials._key(PARTS["interests"]["K = 4"]) == trials._key(PARTS["ablations"][WHOLE])
    random = trials.stages.selected("neighbours", "random")
    assert random.users > trials.stages.selected().users or random.covered < 1  # the cover needs fewer, or covers more
