import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.histories import Histories
from recsys_dagster.training.batching import PairBatches, TrainBatches, pad


def histories(sequences, n_items=50):
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    return Histories(indptr, np.array([i for s in sequences for i in s], dtype=np.int32), n_items)


sequences = st.lists(st.lists(st.integers(0, 49), max_size=12), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(sequences=sequences, batch_size=st.integers(1, 16), max_length=st.integers(1, 9), seed=st.integers(0, 99))
def test_an_epoch_has_every_position_of_every_user_once(sequences, batch_size, max_length, seed):
    batches = TrainBatches(histories(sequences), batch_size, max_length)
    seen = []
    for batch in batches.epoch(np.random.default_rng(seed)):
        assert batch.targets is not None
        for row, user in enumerate(batch.users.tolist()):
            length = int(batch.lengths[row])
            seen.append((user, batch.items[row, :length].tolist(), batch.targets[row, :length].tolist()))
            assert not batch.mask[row, length:].any()
    want = []
    for user, sequence in enumerate(sequences):
        if len(sequence) >= 2:
            kept = sequence[-(max_length + 1) :]
            want.append((user, kept[:-1], kept[1:]))
    assert sorted(seen) == want


def test_batches_weigh_about_the_same_and_hold_little_padding():
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 50, size=rng.integers(2, 40)).tolist() for _ in range(2000)]
    batches = TrainBatches(histories(many), 64, 50)
    positions, cells = [], []
    for batch in batches.epoch(np.random.default_rng(1)):
        positions.append(int(batch.lengths.sum()))
        cells.append(batch.items.numel())
    assert sum(positions) / sum(cells) > 0.9
    assert abs(len(positions) - len(batches)) <= 2
    assert np.quantile(positions, 0.95) < 1.1 * batches.positions_per_batch


def test_the_order_is_the_seed_s():
    data = histories([[1, 2, 3], [4, 5], [6, 7, 8, 9], [1, 9]] * 10)
    first, again, other = (
        [b.users.tolist() for b in TrainBatches(data, 4, 5).epoch(np.random.default_rng(seed))] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_pad_keeps_the_latest_items_and_allows_an_empty_history():
    batch = pad(histories([[1, 2, 3, 4], []]), np.array([0, 1]), 3)
    assert batch.items.tolist() == [[2, 3, 4], [0, 0, 0]]
    assert batch.lengths.tolist() == [3, 0]
    assert batch.mask.tolist() == [[True] * 3, [False] * 3]
    assert batch.items.dtype == torch.int64


def test_last_is_what_stands_at_the_last_item():
    batch = pad(histories([[1, 2, 3, 4], [], [7]]), np.array([0, 1, 2]), 3)
    assert batch.last(batch.items).tolist() == [4, 0, 7]
    states = torch.arange(18).view(3, 3, 2)
    assert batch.last(states).tolist() == [[4, 5], [6, 7], [12, 13]]


@settings(max_examples=50, deadline=None)
@given(sequences=sequences, batch_size=st.integers(1, 16), seed=st.integers(0, 99))
def test_an_epoch_has_every_pair_once_beside_an_item_that_the_user_lacks(sequences, batch_size, seed):
    batches, seen = PairBatches(histories(sequences), batch_size), []
    epoch = list(batches.epoch(np.random.default_rng(seed)))
    for batch in epoch:
        seen += zip(batch.users.tolist(), batch.items.tolist(), strict=True)
        for user, negative in zip(batch.users.tolist(), batch.negatives.tolist(), strict=True):
            assert 0 <= negative < 50
            assert negative not in sequences[user]
    assert sorted(seen) == sorted((user, item) for user, sequence in enumerate(sequences) for item in sequence)
    assert len(seen) == batches.positions
    assert len(epoch) == len(batches)


class Ordinals:
    """In place of a generator: deals out 0, 1, 2, ... to the users of a batch."""

    def integers(self, high):
        assert (high == len(high)).all()
        return np.arange(len(high))


@settings(max_examples=50, deadline=None)
@given(sequences=sequences)
def test_each_missing_item_is_one_ordinal_of_a_uniform_draw(sequences):
    batches = PairBatches(histories(sequences), 8)
    for user, sequence in enumerate(sequences):
        missing = sorted(set(range(50)) - set(sequence))
        assert batches.negatives(np.full(len(missing), user), Ordinals()).tolist() == missing


def test_a_user_who_has_everything_gives_no_pairs():
    batches = PairBatches(histories([[0, 1, 2], [2, 2, 0]], n_items=3), 4)
    epoch = list(batches.epoch(np.random.default_rng(0)))
    assert {int(u) for batch in epoch for u in batch.users} == {1}
    assert {int(i) for batch in epoch for i in batch.negatives} == {1}
    assert batches.positions == 3
    assert list(PairBatches(histories([[]]), 4).epoch(np.random.default_rng(0))) == []
