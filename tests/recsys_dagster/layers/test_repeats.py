import math

import numpy as np
import torch

from recsys_dagster.layers.repeats import GROUPS, NEAR, UNIT, RepeatBias
from recsys_dagster.training.batching import SequenceBatch

N_ITEMS = 9


def built():
    bias = RepeatBias()
    with torch.no_grad():
        bias.by_lag.copy_(torch.randn(GROUPS, generator=torch.Generator().manual_seed(0)))
        bias.by_count.fill_(0.4)
    return bias


def group(lag):
    """Below 8 each lag alone, then 8-11, 12-15 (rounded down by half octaves), ..."""
    return lag if lag < NEAR else min(NEAR + int(2 * math.log2(lag / NEAR)), GROUPS - 1)


def slow(bias, history):
    """float [N]: the bias of every item after a history, by loops."""
    found = np.zeros(N_ITEMS)
    for item in set(history):
        lag = history[::-1].index(item)
        found[item] = UNIT * (bias.by_lag[group(lag)].item() + bias.by_count.item() * math.log(history.count(item)))
    return found


def some_batch():
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, N_ITEMS, length).tolist() for length in (40, 1, 7, 22)]
    lengths = torch.tensor([len(history) for history in histories])
    items = torch.zeros(4, 40, dtype=torch.int64)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
    return histories, SequenceBatch(torch.arange(4), items, lengths, items)


def test_prefixes_equal_loops():
    bias, (histories, batch) = built(), some_batch()
    pairs = bias.prefixes(batch)
    got = torch.zeros(int(batch.lengths.sum()), N_ITEMS)
    got[pairs.positions, pairs.items] = pairs.values.detach()
    assert len(torch.unique(pairs.positions * N_ITEMS + pairs.items)) == len(pairs.items)  # each pair once
    want = [slow(bias, history[: t + 1]) for history in histories for t in range(len(history))]
    np.testing.assert_allclose(got.numpy(), np.array(want), rtol=1e-5, atol=1e-5)


def test_whole_histories_equal_loops_and_the_last_prefix():
    bias, (histories, batch) = built(), some_batch()
    got = bias.add_to(torch.zeros(4, N_ITEMS), batch).detach().numpy()
    np.testing.assert_allclose(got, np.array([slow(bias, history) for history in histories]), rtol=1e-5, atol=1e-5)


def test_an_empty_history_adds_nothing():
    empty = SequenceBatch(torch.tensor([0]), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0]))
    assert built().add_to(torch.zeros(1, N_ITEMS), empty).eq(0).all()
