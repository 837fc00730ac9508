import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.bert4rec import BERT4Rec
from recsys_dagster.baselines.config import BERT4RecConfig
from recsys_dagster.data.histories import Histories
from recsys_dagster.training.batching import SequenceBatch

N_ITEMS, MAX_LENGTH = 9, 6


class TestBERT4Rec(LearnerContract):
    name, floor = "bert4rec", (0.175, 0.094)
    quick = BERT4RecConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1, copies=2)
    quality = BERT4RecConfig(epochs=6, dimension=32, layers=1, copies=8, learning_rate=5e-3, dropout=0.1)


def build(**settings):
    torch.manual_seed(0)
    config = BERT4RecConfig(**{"dimension": 8, "dropout": 0.0, "copies": 1} | settings)
    model = BERT4Rec(config, n_items=N_ITEMS, max_length=MAX_LENGTH)
    for embedding in (model.items, model.positions):
        torch.nn.init.normal_(embedding.weight)
    torch.nn.init.normal_(model.bias)
    return model.eval()


@pytest.fixture
def batch():
    """Whole sequences 3 1 4 1 5 and 6 5 2."""
    return SequenceBatch(
        torch.tensor([0, 1]),
        torch.tensor([[3, 1, 4, 1], [6, 5, 0, 0]]),
        torch.tensor([4, 2]),
        torch.tensor([[1, 4, 1, 5], [5, 2, 0, 0]]),
    )


def histories(sequences):
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    return Histories(indptr, np.array([i for s in sequences for i in s], dtype=np.int32), N_ITEMS)


def test_padding_is_not_attended_to():
    model, lengths = build(), torch.tensor([3, 5])
    items = torch.tensor([[6, 5, 2, 0, 0], [3, 1, 4, 1, 5]])
    states = model(items, lengths)
    items[0, 3:] = torch.tensor([7, 8])
    assert torch.equal(model(items, lengths)[0, :3], states[0, :3])
    torch.testing.assert_close(model(items[:1, :3], lengths[:1])[0], states[0, :3])


def test_a_state_sees_both_sides():
    model, lengths = build(), torch.tensor([5])
    items = torch.tensor([[3, 1, 4, 1, 5]])
    state = model(items, lengths)[0, 2]
    for place in (0, 4):
        changed = items.clone()
        changed[0, place] = 8
        assert not torch.allclose(model(changed, lengths)[0, 2], state)


def test_the_loss_is_that_of_the_gaps_and_a_hidden_item_is_not_seen(batch, monkeypatch):
    model = build()
    hidden = torch.tensor([[False, True, False, False, True], [False, True, False, False, False]])
    monkeypatch.setattr(model, "draw_gaps", lambda *_: hidden)
    whole = torch.tensor([[3, 1, 4, 1, 5], [6, 5, 2, 0, 0]])
    with_gaps = torch.where(hidden, N_ITEMS, whole)
    logits = model(with_gaps, torch.tensor([5, 3])) @ model.items.weight[:N_ITEMS].T + model.bias
    want = torch.nn.functional.cross_entropy(logits[hidden], whole[hidden])
    torch.testing.assert_close(model.loss(batch, 0)[0], want)
    # another item in the gap of user 1 changes the target and nothing else
    batch.items[1, 1] = batch.targets[1, 0] = whole[1, 1] = 7
    want = torch.nn.functional.cross_entropy(logits[hidden], whole[hidden])
    torch.testing.assert_close(model.loss(batch, 0)[0], want)


def test_each_copy_of_a_sequence_has_gaps_of_its_own(batch, monkeypatch):
    model, drawn = build(copies=3), []
    real = model.draw_gaps
    monkeypatch.setattr(model, "draw_gaps", lambda *given: drawn.append(real(*given)) or drawn[-1])
    torch.manual_seed(1)
    several = model.loss(batch, 0)[0]
    assert drawn[0].shape == (6, 5)
    assert drawn[0].view(3, 2, 5)[:, 0].unique(dim=0).shape[0] > 1
    whole = torch.tensor([[3, 1, 4, 1, 5], [6, 5, 2, 0, 0]]).repeat(3, 1)
    with_gaps, lengths = torch.where(drawn[0], N_ITEMS, whole), torch.tensor([5, 3] * 3)
    logits = model(with_gaps, lengths)[drawn[0]] @ model.items.weight[:N_ITEMS].T + model.bias
    torch.testing.assert_close(several, torch.nn.functional.cross_entropy(logits, whole[drawn[0]]))


@pytest.mark.parametrize("rate", [1e-9, 0.3, 1.0])
def test_gaps_are_real_positions_and_at_least_one_a_sequence(rate):
    model, lengths = build(mask_rate=rate, last_item_share=0.0), torch.arange(2000) % 5 + 2
    hidden = model.draw_gaps(lengths, MAX_LENGTH)
    assert hidden.any(1).all()
    assert not (hidden & (torch.arange(MAX_LENGTH) >= lengths[:, None])).any()
    if rate < 0.01:
        assert (hidden.sum(1) == 1).all()
        drawn = hidden[lengths == 2][:, :2].float().mean(0)
        torch.testing.assert_close(drawn, torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)
    elif rate == 1.0:
        assert torch.equal(hidden.sum(1), lengths)
    else:  # the least draw of a sequence is hidden in any case
        want = (0.3 * lengths + 0.7**lengths).sum() / lengths.sum()
        assert hidden.sum() / lengths.sum() == pytest.approx(want.item(), abs=0.02)


def test_some_sequences_hide_the_last_item_alone():
    lengths = torch.arange(2000) % 5 + 2
    last = torch.nn.functional.one_hot(lengths - 1, MAX_LENGTH).bool()
    assert torch.equal(build(last_item_share=1.0).draw_gaps(lengths, MAX_LENGTH), last)
    hidden = build(mask_rate=1.0, last_item_share=0.25).draw_gaps(lengths, MAX_LENGTH)
    assert (hidden == last).all(1).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_scores_are_those_of_a_gap_after_the_latest_items():
    model = build()
    scores = model.score(np.array([0, 1]), histories([[1, 2, 3, 4, 5, 6, 7], [8, 0]]))
    for row, items in enumerate(([3, 4, 5, 6, 7], [8, 0])):  # five items and the gap fill the six positions
        states = model(torch.tensor([[*items, N_ITEMS]]), torch.tensor([len(items) + 1]))
        want = states[0, -1] @ model.items.weight[:N_ITEMS].T + model.bias
        torch.testing.assert_close(scores[row], want)


def test_training_reads_whole_sequences_of_the_longest_length(toy_data):
    model = BERT4Rec(BERT4RecConfig(dimension=8), n_items=24, max_length=toy_data.max_length)
    widths = [
        batch.targets.shape[1] + 1
        for batch in model.batches(toy_data, model.config).epoch(np.random.default_rng(0))
        if batch.targets is not None
    ]
    assert max(widths) == toy_data.max_length
