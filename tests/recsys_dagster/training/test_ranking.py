import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.histories import Histories
from recsys_dagster.training.ranking import target_ranks, top_n


def histories(sequences, n_items):
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    return Histories(indptr, np.array([i for s in sequences for i in s], dtype=np.int32), n_items)


class Table:
    """Scores looked up in a matrix."""

    def __init__(self, scores):
        self.scores, self.n_items = torch.tensor(scores, dtype=torch.float32), np.shape(scores)[1]

    def score(self, users, histories):
        return self.scores[torch.from_numpy(np.asarray(users))].clone()


def slow_rank(scores, target, candidates):
    others = [c for c in candidates if c != target]
    greater = sum(scores[c] > scores[target] for c in others)
    equal = sum(scores[c] == scores[target] for c in others)
    return 1 + greater + equal / 2


@settings(max_examples=60, deadline=None)
@given(data=st.data(), mask_seen=st.booleans(), batch_size=st.integers(1, 5))
def test_ranks_equal_the_slow_ones(data, mask_seen, batch_size):
    n_items, n_users = 12, data.draw(st.integers(1, 6))
    item_lists = st.lists(st.integers(0, n_items - 1), max_size=5, unique=True)
    seen = data.draw(st.lists(item_lists, min_size=n_users, max_size=n_users))
    wanted = data.draw(st.lists(item_lists, min_size=n_users, max_size=n_users))
    scores = data.draw(
        st.lists(st.lists(st.integers(0, 4), min_size=n_items, max_size=n_items), min_size=n_users, max_size=n_users)
    )
    negatives = np.full((n_users, 4), -1, dtype=np.int32)
    for user in range(n_users):
        free = [i for i in range(n_items) if i not in seen[user] and i not in wanted[user]][:4]
        negatives[user, : len(free)] = free
    full, sampled = target_ranks(
        Table(scores), histories(seen, n_items), histories(wanted, n_items),
        mask_seen=mask_seen, negatives=negatives, batch_size=batch_size,
    )  # fmt: skip
    assert sampled is not None
    pairs = [(u, t) for u in range(n_users) for t in wanted[u]]
    assert list(zip(full.users.tolist(), full.items.tolist(), strict=True)) == pairs
    for place, (user, target) in enumerate(pairs):
        candidates = [i for i in range(n_items) if not mask_seen or i not in seen[user] or i in wanted[user]]
        assert full.ranks[place] == slow_rank(scores[user], target, candidates)
        drawn = [int(i) for i in negatives[user] if i >= 0] + wanted[user]
        assert sampled.ranks[place] == slow_rank(scores[user], target, drawn)


def test_a_score_that_is_not_finite_is_refused():
    scores = [[0.0, float("nan"), 1.0]]
    with pytest.raises(FloatingPointError, match="not finite"):
        target_ranks(Table(scores), histories([[]], 3), histories([[0]], 3), mask_seen=True)


def test_top_n_leaves_out_the_history_and_puts_the_smaller_id_first():
    scorer = Table([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    items, values = top_n(scorer, np.array([0, 1]), histories([[1], [0, 1, 2]], 4), n=3, mask_seen=True)
    assert items.tolist() == [[2, 3, 0], [3, -1, -1]]
    assert values[0].tolist() == [3.0, 2.0, 1.0]
    # users come back in their own order, whatever their batches were
    alone = [
        top_n(scorer, np.array([user]), histories([[1], [0, 1, 2]], 4), n=3, mask_seen=True)[0][0] for user in (1, 0)
    ]
    items, _ = top_n(scorer, np.array([1, 0]), histories([[1], [0, 1, 2]], 4), n=3, mask_seen=True, batch_size=1)
    assert items.tolist() == np.array(alone).tolist()
    items, _ = top_n(scorer, np.array([0]), histories([[1], []], 4), n=2, mask_seen=False)
    assert items.tolist() == [[1, 2]]
