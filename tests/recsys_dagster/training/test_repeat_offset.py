"""The offset of repeats is the one that a slow search over the validation split finds."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from recsys_dagster.data.histories import VALIDATION
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.training import repeat_offset
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.repeat_offset import OFFSETS, choose_repeat_offset

N_USERS, N_ITEMS, K = 40, 30, 5


class Fixed(SequentialModel):
    """Scores that stand still, and the bias of repeats on top."""

    def __init__(self, max_length):
        super().__init__(N_ITEMS, max_length)
        self.fixed = nn.Parameter(torch.randn(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(3)))
        self.repeats = RepeatBias()

    def loss(self, batch, step):
        raise NotImplementedError

    def score_batch(self, batch):
        return self.repeats.add_to(self.fixed[batch.users].clone(), batch)


def a_log(share, seed=0):
    """A log in which people come back with this probability after their first four items."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(N_USERS):
        history = rng.permutation(N_ITEMS)[:4].tolist()
        for _ in range(int(rng.integers(2, 6))):
            back = rng.random() < share
            history.append(int(rng.choice(history)) if back else int(rng.integers(0, N_ITEMS)))
        cut = len(history) - 2
        split = [0] * cut + [1, 2]
        rows += [(user, item, place, s) for place, (item, s) in enumerate(zip(history, split, strict=True))]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "split"])


def built(share):
    data = SequenceData.from_tables(a_log(share), n_users=N_USERS, n_items=N_ITEMS, max_length=3)
    return Fixed(data.max_length).eval(), data


def slow_recall(model, data, offset):
    """Mean over users of the share of targets among the K best, with the last three items of the history raised."""
    found = []
    for user in range(N_USERS):
        scores = model.fixed[user].detach().double().numpy().copy()
        for item in set(data.history(VALIDATION).of(user)[-data.max_length :].tolist()):
            scores[item] += offset
        targets = data.targets(VALIDATION).of(user)
        found.append(np.mean([np.sum(scores > scores[item]) + 1 <= K for item in targets]))
    return float(np.mean(found))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_best_offset_of_a_slow_search(share, monkeypatch):
    monkeypatch.setattr(repeat_offset, "VALIDATION_CUTOFF", K)
    monkeypatch.setattr(repeat_offset, "BATCH", 7)
    model, data = built(share)
    assert not data.mask_seen
    want = [slow_recall(model, data, offset) for offset in OFFSETS]
    facts = choose_repeat_offset(model, data)
    assert facts["repeat_offset"] == OFFSETS[int(np.argmax(want))]
    assert facts["repeat_offset_recall"] == pytest.approx(max(want))
    assert model.repeats.offset.item() == facts["repeat_offset"]
    assert (facts["repeat_offset"] > 0) == (share > 0)
    # and the scores have it: they are now those of the chosen offset
    user = np.arange(5)
    raised = model.score(user, data.history(VALIDATION)) - model.fixed[:5]
    for row in range(5):
        seen = set(data.history(VALIDATION).of(row)[-data.max_length :].tolist())
        for item in range(N_ITEMS):
            wanted = facts["repeat_offset"] if item in seen else 0.0
            assert raised[row, item].item() == pytest.approx(wanted, abs=1e-5)


def test_nothing_is_chosen_where_seen_items_are_no_candidates(monkeypatch):
    log = a_log(0.0)
    first = log.drop_duplicates(["user_id", "item_id"])
    data = SequenceData.from_tables(first, n_users=N_USERS, n_items=N_ITEMS, max_length=3)
    model = Fixed(data.max_length).eval()
    assert data.mask_seen
    assert choose_repeat_offset(model, data) == {}
    assert model.repeats.offset.item() == 0
