import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.caser import Caser
from recsys_dagster.baselines.config import CaserConfig
from recsys_dagster.training.batching import SequenceBatch

D, WINDOW = 4, 3


class TestCaser(LearnerContract):
    name, floor = "caser", (0.27, 0.16)
    quick = CaserConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1, horizontal_filters=4)
    quality = CaserConfig(epochs=5, dimension=32, learning_rate=1e-2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = CaserConfig(dimension=D, window=WINDOW, horizontal_filters=2, vertical_filters=3, dropout=0.0)
    model = Caser(config, n_users=2, n_items=7, max_length=6)
    for parameter in (model.padding, model.bias, model.users.weight):
        torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def batch():
    return SequenceBatch(
        torch.tensor([1, 0]),
        torch.tensor([[3, 1, 4, 1, 5], [6, 5, 0, 0, 0]]),
        torch.tensor([5, 2]),
        torch.tensor([[1, 4, 1, 5, 2], [5, 0, 0, 0, 0]]),
    )


def image(model, items):
    """The window's rows, oldest first: padding where the history is shorter."""
    v, padding = model.items.weight.detach().double().numpy(), model.padding.detach().double().numpy()
    rows = [v[item] for item in items[-WINDOW:]]
    return np.array([padding] * (WINDOW - len(rows)) + rows)


def slow_features(model, items):
    """Eq. 3-8: horizontal filters with max pooling over places, then vertical filters."""
    rows, found = image(model, items), []
    for height, filters in enumerate(model.horizontal, start=1):
        weight, bias = filters.weight.detach().double().numpy(), filters.bias.detach().double().numpy()
        for k in range(len(weight)):
            values = []
            for start in range(WINDOW - height + 1):
                total = bias[k]
                for row in range(height):
                    for column in range(D):
                        total += weight[k, column, row] * rows[start + row, column]
                values.append(max(total, 0.0))
            found.append(max(values))
    vertical = model.vertical.weight.detach().double().numpy()
    for column in range(D):
        for k in range(len(vertical)):
            found.append(sum(vertical[k, row] * rows[row, column] for row in range(WINDOW)))
    return np.array(found)


def slow_scores(model, user, items):
    """Eq. 9 and 10."""
    w, b = model.joint.weight.detach().double().numpy(), model.joint.bias.detach().double().numpy()
    z = np.maximum(w @ slow_features(model, items) + b, 0)
    both = np.concatenate([z, model.users.weight.detach().double().numpy()[user]])
    return model.output.weight.detach().double().numpy() @ both + model.bias.detach().double().numpy()


def prefixes(batch):
    for row, length in enumerate(batch.lengths.tolist()):
        for end in range(1, length + 1):
            yield row, end - 1, int(batch.users[row]), batch.items[row, :end].tolist()


def test_features_of_every_window_equal_the_slow_ones(model, batch):
    features = model.convolve(batch).detach().numpy()
    for row, position, _, items in prefixes(batch):
        np.testing.assert_allclose(features[row, position], slow_features(model, items), rtol=1e-4, atol=1e-6)


def test_scores_and_loss_equal_the_slow_ones(model, batch):
    losses = []
    for row, position, user, items in prefixes(batch):
        scores = slow_scores(model, user, items)
        losses.append(np.log(np.exp(scores).sum()) - scores[batch.targets[row, position]])
        if position == batch.lengths[row] - 1:
            np.testing.assert_allclose(model.score_batch(batch)[row].detach().numpy(), scores, rtol=1e-4, atol=1e-5)
    assert model.loss(batch, 0)[0].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_an_empty_history_is_a_window_of_padding(model):
    batch = SequenceBatch(torch.tensor([1]), torch.tensor([[0]]), torch.tensor([0]))
    np.testing.assert_allclose(model.score_batch(batch)[0].detach().numpy(), slow_scores(model, 1, []), rtol=1e-4)


def test_only_the_last_items_matter(model, batch):
    scores = model.score_batch(batch)[0]
    batch.items[0, 1] = 6  # four places back, before the window
    assert torch.equal(model.score_batch(batch)[0], scores)
    batch.items[0, 2] = 6
    assert not torch.equal(model.score_batch(batch)[0], scores)
