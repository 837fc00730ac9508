"""What every model has to hold, as base classes for its tests.

A test class names its model, which `train_<name>` in the model's module trains, and inherits the tests:

    class TestBPR(LearnerContract):
        name, floor = "bpr", (0.28, 0.14)
        quick, quality = BPRConfig(epochs=3, dimension=8), BPRConfig(epochs=15)

The checks run on the toy data in a few epochs; the floor is measured on the dataset `sample`.
"""

from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.histories import TEST, Histories
from recsys_dagster.models import MODELS, load_model
from recsys_dagster.training import batching, loop
from recsys_dagster.training.artifact import read_config, read_state
from recsys_dagster.training.checkpoint import Checkpoint
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.ranking import target_ranks
from recsys_dagster.training.runtime import Runtime

POPULARITY = (0.0583, 0.0268)
"""HR@10 and NDCG@10 of popularity on the test split of `sample`."""


def figures(model, data):
    """HR@10 and NDCG@10 of the test targets in the whole catalogue, one target a user."""
    ranks, _ = target_ranks(model, data.history(TEST), data.targets(TEST), mask_seen=data.mask_seen)
    gains = np.where(ranks.ranks <= 10, 1 / np.log2(1 + ranks.ranks), 0)
    return (ranks.ranks <= 10).mean(), gains.mean()


def empty(histories):
    """The same users and items, and no interaction."""
    return Histories(np.zeros(histories.n_users + 1, np.int64), np.empty(0, np.int32), histories.n_items)


class ScorerContract:
    """Of anything that scores.

    Attributes:
        name: key in `recsys_dagster.models`.
        quick: settings of the checks on the toy data.
        quality: settings of the run on `sample`.
        floor: HR@10 and NDCG@10 that this run has to reach, about 15 % below what it was seen to reach.
    """

    name: str
    quick: TrainingConfig | None = None
    quality: TrainingConfig | None = None
    floor: tuple[float, float]

    def train(self, data, config, output, runtime, checkpoint=None):
        """Train and write the model directory to `output`."""
        raise NotImplementedError

    def train_quickly(self, data, output, runtime, checkpoint=None):
        """Train on the toy data, in epochs of few steps: the checks need no good model."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batching, "STEPS_AN_EPOCH", 15)
            self.train(data, self.quick, output, runtime, checkpoint)

    @pytest.fixture(scope="class")
    def trained(self, toy_data, tmp_path_factory):
        """A model directory, and the model as it was when it was written (None if the loop did not train it)."""
        directory, models = tmp_path_factory.mktemp(self.name) / "model", []
        real = Checkpoint.resume

        def spy(keeper, model, optimiser):
            models.append(model)
            return real(keeper, model, optimiser)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoint, "resume", spy)
            self.train_quickly(toy_data, directory, Runtime())
        return directory, models[0] if models else None

    @pytest.fixture(scope="class")
    def model(self, trained):
        return load_model(trained[0])

    def test_its_directory_holds_three_files_and_its_name(self, trained):
        directory, _ = trained
        assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors", "training.parquet"}
        assert read_config(directory)["model"] == self.name

    def test_scores_are_finite_one_row_a_user_one_column_an_item(self, model, toy_data):
        users = np.array([5, 3, 40])
        scores = model.score(users, toy_data.history(TEST))
        assert scores.shape == (3, toy_data.n_items)
        assert scores.dtype == torch.float32
        assert torch.isfinite(scores).all()
        assert torch.equal(model.score(users, toy_data.history(TEST)), scores)

    def test_a_stored_model_scores_as_the_trained_one(self, trained, model, toy_data):
        if trained[1] is not None:
            users = np.arange(toy_data.n_users)
            history = toy_data.history(TEST)
            assert torch.equal(model.score(users, history), trained[1].score(users, history))

    def test_the_others_in_the_batch_change_no_score(self, model, toy_data):
        users, history = np.arange(20), toy_data.history(TEST)
        alone = torch.cat([model.score(users[user : user + 1], history) for user in users])
        torch.testing.assert_close(model.score(users, history), alone, rtol=1e-4, atol=1e-5)

    def test_a_user_without_a_history_gets_scores(self, model, toy_data):
        nobody = empty(toy_data.train)
        scores = model.score(np.array([0, 1]), nobody)
        assert scores.shape == (2, toy_data.n_items)
        assert torch.isfinite(scores).all()
        # user 1 has a history here and is read beside user 0, who has none
        start = np.where(np.arange(toy_data.n_users + 1) > 1, 2, 0)
        mixed = Histories(start, np.array([3, 4], np.int32), toy_data.n_items)
        together = model.score(np.array([0, 1]), mixed)
        torch.testing.assert_close(together[0], scores[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[1:], model.score(np.array([1]), mixed), rtol=1e-4, atol=1e-5)

    def test_it_reaches_its_floor_on_the_sample(self, sample_data, tmp_path):
        self.train(sample_data, self.quality, tmp_path / "model", Runtime())
        reached = figures(load_model(tmp_path / "model"), sample_data)
        assert (np.array(reached) >= self.floor).all(), reached
        assert self.name == "popularity" or (np.array(self.floor) > POPULARITY).all()


class LearnerContract(ScorerContract):
    """Of anything that the training loop trains."""

    def train(self, data, config, output, runtime, checkpoint=None):
        train = getattr(import_module(f"recsys_dagster.{MODELS[self.name][0]}"), f"train_{self.name}")
        return train(data, config, runtime, output, checkpoint)

    def test_the_same_seed_gives_the_same_weights(self, trained, toy_data, tmp_path):
        self.train_quickly(toy_data, tmp_path / "again", Runtime())
        self.train_quickly(toy_data, tmp_path / "other", Runtime(seed=1))
        first, again, other = (read_state(path) for path in (trained[0], tmp_path / "again", tmp_path / "other"))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)

    def test_a_killed_run_resumes_to_the_same_weights(self, trained, toy_data, tmp_path, monkeypatch):
        class Killed(BaseException):
            pass

        real, calls = loop.validation_recall, []

        def dies_in_the_second_epoch(model, data):
            calls.append(1)
            if len(calls) == 2:
                raise Killed
            return real(model, data)

        monkeypatch.setattr(loop, "validation_recall", dies_in_the_second_epoch)
        with pytest.raises(Killed):
            self.train_quickly(toy_data, tmp_path / "model", Runtime(), tmp_path / "state")
        assert (tmp_path / "state" / "last.safetensors").exists()
        assert not (tmp_path / "model").exists()
        self.train_quickly(toy_data, tmp_path / "model", Runtime(), tmp_path / "state")
        whole = pd.read_parquet(trained[0] / "training.parquet")
        assert len(calls) == 2 + len(whole) - 1  # the first epoch was not learned again
        assert not (tmp_path / "state").exists()
        undisturbed, resumed = read_state(trained[0]), read_state(tmp_path / "model")
        assert undisturbed.keys() == resumed.keys()
        assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
        curve = pd.read_parquet(tmp_path / "model" / "training.parquet")
        assert curve["loss"].tolist() == whole["loss"].tolist()
