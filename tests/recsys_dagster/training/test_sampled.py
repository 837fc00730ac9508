import numpy as np
import torch

from recsys_dagster.layers.next_item import NextItem
from recsys_dagster.training.config import NextItemConfig
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy
from recsys_dagster.training.sampled import Negatives, draw_negatives, sampled_cross_entropy

N_ITEMS = 30


def some(seed=0, positions=40):
    generator = torch.Generator().manual_seed(seed)
    queries, items = torch.randn(positions, 6, generator=generator), torch.randn(N_ITEMS, 6, generator=generator)
    targets = torch.randint(N_ITEMS, (positions,), generator=generator)
    pairs = torch.randperm(positions * N_ITEMS, generator=generator)[:80]
    values = torch.randn(80, generator=generator)
    return queries, items, targets, ScoreBias(pairs // N_ITEMS, pairs % N_ITEMS, values)


def test_every_item_drawn_as_expected_is_the_full_softmax():
    queries, items, targets, bias = some()
    everything = Negatives(torch.arange(N_ITEMS), torch.zeros(N_ITEMS))
    for added in (None, bias):
        got = sampled_cross_entropy(queries, items, targets, everything, added)
        torch.testing.assert_close(got, catalogue_cross_entropy(queries, items, targets, bias=added))


def test_the_sum_over_the_sample_is_unbiased():
    torch.manual_seed(0)
    _, _, targets, _ = some()
    values, sums = torch.rand(N_ITEMS) + 0.1, []
    for _ in range(4000):
        drawn = draw_negatives(N_ITEMS, 16, targets)
        sums.append((drawn.log_weights.exp() * values[drawn.items]).sum().item())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values.sum().item()) < 4 * error


def test_more_draws_come_nearer_to_the_full_loss():
    torch.manual_seed(1)
    queries, items, targets, bias = some()
    full = catalogue_cross_entropy(queries, items, targets, bias=bias).item()

    def miss(n):
        losses = [
            sampled_cross_entropy(queries, items, targets, draw_negatives(N_ITEMS, n, targets), bias).item()
            for _ in range(50)
        ]
        return abs(np.mean(losses) - full)

    assert miss(4000) < 0.01
    assert miss(4000) < miss(8)


def test_label_smoothing_equals_the_dense_form():
    queries, items, targets, bias = some()
    for added in (None, bias):
        model = NextItem(NextItemConfig(similarity="inner", label_smoothing=0.1))
        got = model.loss(queries, items, targets, added)
        scores = queries @ items.T
        if added is not None:
            scores = scores.index_put((added.positions, added.items), added.values, accumulate=True)
        want = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=0.1)
        torch.testing.assert_close(got, want)


def test_a_catalogue_that_is_no_larger_than_the_sample_is_compared_as_a_whole():
    queries, items, targets, bias = some()
    whole = NextItem(NextItemConfig(similarity="inner")).loss(queries, items, targets, bias)
    for negatives, same in ((len(items), True), (len(items) + 1, True), (len(items) - 1, False)):
        model = NextItem(NextItemConfig(similarity="inner", negatives=negatives))
        assert (model.loss(queries, items, targets, bias).item() == whole.item()) == same
