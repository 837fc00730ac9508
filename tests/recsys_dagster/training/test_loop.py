import json

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.pop import train_popularity
from recsys_dagster.baselines.sasrec import SASRec, item_embeddings, train_sasrec
from recsys_dagster.data.histories import TEST, VALIDATION, Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.models import load_model
from recsys_dagster.training import loop
from recsys_dagster.training.data import SequenceData, concatenate, distinct
from recsys_dagster.training.loop import fit
from recsys_dagster.training.ranking import target_ranks
from recsys_dagster.training.runtime import Runtime

pytestmark = pytest.mark.usefixtures("small_cutoff")

CONFIG = SASRecConfig(epochs=6, patience=6, batch_size=16, dimension=16, dropout=0.1, learning_rate=3e-3)


def build(toy_data, seed=0):
    torch.manual_seed(seed)
    return SASRec(CONFIG, n_items=toy_data.n_items, max_length=toy_data.max_length)


def test_it_learns_and_keeps_the_best_epoch(toy_data):
    model = build(toy_data)
    before = loop.validation_recall(model, toy_data)
    trained = fit(model, toy_data, CONFIG, Runtime(), label="toy")
    best = trained.history["validation_recall"].max()
    assert trained.facts["validation_recall"] == best
    assert trained.history["validation_recall"].idxmax() + 1 == trained.facts["best_epoch"]
    assert loop.validation_recall(model, toy_data) == pytest.approx(best)
    assert best > before + 0.2


def test_validation_is_the_mean_over_users(monkeypatch):
    """User 0 has one target, found; user 1 has three, none of them found."""
    log = pd.DataFrame(
        [(0, 0, 0, 0), (0, 1, 1, 1), (1, 0, 0, 0), (1, 3, 1, 1), (1, 4, 2, 1), (1, 5, 3, 1)],
        columns=["user_id", "item_id", "timestamp", "split"],
    )
    data = SequenceData.from_tables(log, n_users=2, n_items=24, max_length=3)
    model = build(data)
    falling = torch.arange(24, 0, -1.0)
    monkeypatch.setattr(model, "score", lambda users, histories: falling.repeat(len(users), 1))
    assert loop.validation_recall(model, data) == pytest.approx((1 + 0) / 2)


def test_the_same_seed_gives_the_same_weights(toy_data):
    def weights(seed):
        model = build(toy_data, seed)
        fit(model, toy_data, CONFIG, Runtime(seed=seed), label="toy")
        return model.items.weight.detach().clone()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_killed_run_resumes_to_the_same_weights(toy_data, tmp_path, monkeypatch):
    undisturbed = build(toy_data)
    whole = fit(undisturbed, toy_data, CONFIG, Runtime(), label="toy")

    class Killed(BaseException):
        pass

    real, calls = loop.validation_recall, []

    def dies_in_the_third_epoch(model, data):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(model, data)

    monkeypatch.setattr(loop, "validation_recall", dies_in_the_third_epoch)
    with pytest.raises(Killed):
        fit(build(toy_data), toy_data, CONFIG, Runtime(), label="toy", checkpoint=tmp_path / "state")
    monkeypatch.setattr(loop, "validation_recall", real)
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["last.safetensors"]

    resumed = build(toy_data, seed=99)  # other starting weights: all must come from the checkpoint
    again = fit(resumed, toy_data, CONFIG, Runtime(), label="toy", checkpoint=tmp_path / "state")
    assert again.history["epoch"].tolist() == whole.history["epoch"].tolist()
    assert again.history["loss"].tolist() == whole.history["loss"].tolist()
    assert torch.equal(resumed.items.weight, undisturbed.items.weight)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("damage", ["truncate", "other settings"])
def test_a_checkpoint_that_does_not_fit_is_left_aside(toy_data, tmp_path, damage):
    state = tmp_path / "state"
    keeper = loop.Checkpoint(state, {"config": CONFIG.model_dump(), "seed": 0, "label": "toy"})
    model = build(toy_data)
    optimiser = torch.optim.AdamW(model.parameters())
    kept = loop.Checkpoint(None, {}).resume(model, optimiser)
    kept.record({"epoch": 1, "loss": 1.0, "validation_recall": 0.9, "seconds": 1.0}, model)
    keeper.save(model, optimiser, kept)
    if damage == "truncate":
        file = state / "last.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        runtime = Runtime()
    else:
        runtime = Runtime(seed=5)
    trained = fit(build(toy_data), toy_data, CONFIG, runtime, label="toy", checkpoint=state)
    assert len(trained.history) == CONFIG.epochs


def test_a_loss_that_is_not_finite_names_the_setting(toy_data):
    wild = CONFIG.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"learning_rate|not finite"):
        fit(build(toy_data), toy_data, wild, Runtime(), label="toy")


def test_a_model_directory_is_read_back_with_the_same_scores(toy_data, tmp_path):
    facts = train_sasrec(toy_data, CONFIG, Runtime(), tmp_path / "sasrec")
    assert sorted(p.name for p in (tmp_path / "sasrec").iterdir()) == [
        "config.json", "model.safetensors", "training.parquet",
    ]  # fmt: skip
    model = load_model(tmp_path / "sasrec")
    users = np.arange(toy_data.n_users)
    first, second = (model.score(users, toy_data.history(TEST)) for _ in range(2))
    assert torch.equal(first, second)
    assert loop.validation_recall(model, toy_data) == pytest.approx(facts["validation_recall"])
    assert item_embeddings(tmp_path / "sasrec").shape == (24, 16)
    assert len(pd.read_parquet(tmp_path / "sasrec" / "training.parquet")) == facts["epochs"]


def test_popularity_counts_the_train_split(toy_data, tmp_path):
    train_popularity(toy_data, tmp_path / "pop")
    model = load_model(tmp_path / "pop")
    scores = model.score(np.array([3]), toy_data.history(TEST))[0]
    assert scores.tolist() == np.bincount(toy_data.train.items, minlength=24).tolist()


def test_a_directory_that_is_no_model_is_a_clear_error(toy_data, tmp_path):
    train_popularity(toy_data, tmp_path / "pop")
    contents = json.loads((tmp_path / "pop" / "config.json").read_text())
    (tmp_path / "pop" / "config.json").write_text(json.dumps(contents | {"model": "ncf"}))
    with pytest.raises(RecsysError, match="'ncf'"):
        load_model(tmp_path / "pop")


def test_padding_changes_no_score(toy_data):
    model = build(toy_data)
    history = toy_data.history(TEST)
    alone = torch.cat([model.score(np.array([user]), history) for user in range(20)])
    torch.testing.assert_close(alone, model.score(np.arange(20), history), rtol=1e-4, atol=1e-5)


def test_splits_and_what_a_model_may_see(toy_data):
    test_history = toy_data.history(TEST)
    for user in range(toy_data.n_users):
        whole = [*toy_data.train.of(user), *toy_data.validation.of(user)]
        assert test_history.of(user).tolist() == whole
    assert toy_data.history(VALIDATION) is toy_data.train
    with pytest.raises(ValueError, match="split must be"):
        toy_data.history(0)


def test_concatenate_and_distinct():
    first = Histories(np.array([0, 2, 2]), np.array([1, 2], dtype=np.int32), 5)
    second = Histories(np.array([0, 1, 3]), np.array([1, 4, 4], dtype=np.int32), 5)
    both = concatenate(first, second)
    assert both.indptr.tolist() == [0, 3, 5]
    assert both.items.tolist() == [1, 2, 1, 4, 4]
    assert distinct(both).items.tolist() == [1, 2, 4]
    assert distinct(both).indptr.tolist() == [0, 2, 3]


def test_history_items_are_candidates_only_where_people_repeat_items():
    rows = pd.DataFrame(
        {
            "user_id": [0, 0, 0, 0],
            "item_id": [1, 2, 1, 2],
            "timestamp": 0,
            "position": [0, 1, 2, 3],
            "split": [0, 0, 0, 2],
        }
    )
    assert not SequenceData.from_tables(rows, n_users=1, n_items=3, max_length=5).mask_seen
    rows.loc[2, "split"] = 1
    assert SequenceData.from_tables(rows, n_users=1, n_items=3, max_length=5).mask_seen


def test_validation_figure_is_the_share_of_targets_found(toy_data):
    model = build(toy_data)
    ranks, _ = target_ranks(model, toy_data.train, toy_data.targets(VALIDATION), mask_seen=toy_data.mask_seen)
    want = np.mean([rank <= loop.VALIDATION_CUTOFF for rank in ranks.ranks])
    assert loop.validation_recall(model, toy_data) == pytest.approx(want)


def test_the_step_size_rises_for_100_steps_and_falls_to_a_tenth():
    factors = [loop.learning_rate_factor(step, 1000) for step in (0, 49, 99, 500, 1000, 1100)]
    assert factors == pytest.approx([0.01, 0.5 * 0.9559, 0.9109, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(("small", "threads"), [(10**9, 1), (0, 3)])
def test_small_steps_run_on_one_thread(toy_data, monkeypatch, small, threads):
    """Threads that wait for each other on busy cores take many times as long as the work of a small step."""
    found = []

    class Watched(SASRec):
        def loss(self, batch, step):
            found.append(torch.get_num_threads())
            return super().loss(batch, step)

    monkeypatch.setattr(loop, "SMALL_STEP", small)
    config = SASRecConfig(epochs=1, dimension=8, layers=1, heads=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        loop.fit(Watched(config, n_items=24, max_length=6), toy_data, config, Runtime(), label="watched")
        assert set(found) == {threads}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
