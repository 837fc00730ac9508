from itertools import pairwise

import numpy as np
import pytest
import torch

from recsys_dagster.baselines.config import MINDConfig, REMIConfig, SASRecConfig
from recsys_dagster.baselines.mind import MIND
from recsys_dagster.baselines.remi import REMI
from recsys_dagster.baselines.sasrec import SASRec
from recsys_dagster.larmi import model as larmi
from recsys_dagster.layers import interests, next_item
from recsys_dagster.layers.next_item import NextItem
from recsys_dagster.training.batching import SequenceBatch, TrainBatches
from recsys_dagster.training.candidates import WHOLE, Candidates, draw_candidates
from recsys_dagster.training.config import NextItemConfig
from recsys_dagster.training.hard_negatives import hard_negative_cross_entropy
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy
from tests.recsys_dagster.g2rec import g2rec_cases
from tests.recsys_dagster.larmi import test_larmi_model as larmi_cases

N_ITEMS = 30


def some(seed=0, positions=40):
    generator = torch.Generator().manual_seed(seed)
    queries, items = torch.randn(positions, 6, generator=generator), torch.randn(N_ITEMS, 6, generator=generator)
    targets = torch.randint(N_ITEMS, (positions,), generator=generator)
    pairs = torch.randperm(positions * N_ITEMS, generator=generator)[:80]
    values = torch.randn(80, generator=generator)
    return queries, items, targets, ScoreBias(pairs // N_ITEMS, pairs % N_ITEMS, values)


def batch_of(*histories):
    """Histories of one length; the last item of each is its last target."""
    rows = torch.tensor(histories)
    lengths = torch.full((len(rows),), rows.shape[1] - 1)
    return SequenceBatch(torch.arange(len(rows)), rows[:, :-1], lengths, rows[:, 1:])


def repeated(items, counts):
    """A catalogue in which each item stands as often as it counts."""
    return items.repeat_interleave(counts, dim=0)


def test_the_batch_is_in_it_exactly_and_the_others_by_what_they_stand_for():
    batch = batch_of([3, 7, 7], [1, 3, 9])
    found = draw_candidates(N_ITEMS, 8, batch)
    assert {1, 3, 7, 9} <= set(found.items.tolist())
    assert all(a < b for a, b in pairwise(found.items.tolist()))
    own = torch.isin(found.items, torch.tensor([1, 3, 7, 9]))
    assert (found.stands_for[own] == 1).all()
    assert found.stands_for.sum().item() == pytest.approx(N_ITEMS)  # together they stand for the catalogue
    assert len(set(found.stands_for[~own].tolist())) == 1
    numbered = found.of(batch)
    assert torch.equal(found.items[numbered.items], batch.items)
    assert torch.equal(found.items[numbered.targets], batch.targets)
    table = torch.arange(N_ITEMS * 2).view(N_ITEMS, 2).float()
    assert torch.equal(found.rows(table), table[found.items])


@pytest.mark.parametrize("negatives", [0, N_ITEMS, N_ITEMS - 4])
def test_where_nothing_is_left_out_it_is_the_catalogue_itself(negatives):
    batch = batch_of([3, 7, 7], [1, 3, 9])
    assert draw_candidates(N_ITEMS, negatives, batch) is WHOLE
    assert WHOLE.of(batch) is batch
    assert WHOLE.rows(batch.items) is batch.items


def test_parts_of_a_batch_have_the_same_candidates():
    whole = batch_of([3, 7, 7], [1, 3, 9], [2, 2, 4])
    first, second = (
        draw_candidates(N_ITEMS, 8, whole.part(index, 2, torch.Generator().manual_seed(5))) for index in (0, 1)
    )
    assert torch.equal(first.items, second.items)
    assert torch.equal(first.stands_for, second.stands_for)


def test_the_sum_over_candidates_is_unbiased():
    torch.manual_seed(0)
    batch, values = batch_of([3, 7, 7], [1, 3, 9]), torch.rand(N_ITEMS) + 0.1
    sums = []
    for _ in range(4000):
        drawn = draw_candidates(N_ITEMS, 8, batch)
        sums.append((drawn.stands_for * values[drawn.items]).sum().item())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values.sum().item()) < 4 * error


@pytest.mark.parametrize("kind", ["single", "several", "hard"])
@pytest.mark.parametrize("biased", [False, True])
def test_an_item_that_stands_for_three_is_three_items(kind, biased):
    """Loss and gradients are those of the catalogue with copies; copies share what they learn."""
    queries, items, targets, bias = some()
    targets = targets % 10  # items 10 to 29 are never targets
    counts = torch.ones(N_ITEMS, dtype=torch.int64)
    counts[10:] = torch.randint(1, 5, (20,), generator=torch.Generator().manual_seed(3))
    first = counts.cumsum(0) - counts
    valid = None
    if kind == "several":
        queries = torch.stack([queries, queries.flip(0)], dim=1)
        valid = torch.arange(2) < torch.randint(1, 3, (len(queries), 1), generator=torch.Generator().manual_seed(4))

    def loss(catalogue, of, **more):
        added = None
        if biased:
            # of the items with one copy alone, so that a bias means the same on both sides
            once = counts[bias.items] == 1
            added = ScoreBias(bias.positions[once], of(bias.items[once]), bias.values[once])
        if kind == "hard":
            return hard_negative_cross_entropy(queries, catalogue, of(targets), 0.7, added, **more)
        return catalogue_cross_entropy(queries, catalogue, of(targets), valid, added, **more)

    gradients = []
    for catalogue, of, more in (
        (lambda v: v, lambda i: i, {"stands_for": counts.float()}),
        (lambda v: repeated(v, counts), lambda i: first[i], {}),
    ):
        q, v = queries.clone().requires_grad_(), items.clone().requires_grad_()
        queries = q
        value = loss(catalogue(v), of, **more)
        gradients.append((value.detach(), *torch.autograd.grad(value, (q, v))))
        queries = q.detach()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_more_draws_come_nearer_to_the_full_loss():
    torch.manual_seed(1)
    queries, items, _, _ = some(positions=4)
    queries = 0.3 * queries
    batch = batch_of([3, 7, 7], [1, 3, 9])
    targets = batch.targets.flatten()
    full = catalogue_cross_entropy(queries, items, targets).item()

    def miss(n):
        found = []
        for _ in range(200):
            drawn = draw_candidates(N_ITEMS, n, batch)
            number = drawn.numbers(targets)
            found.append(
                catalogue_cross_entropy(queries, drawn.rows(items), number, stands_for=drawn.stands_for).item()
            )
        return abs(np.mean(found) - full)

    assert miss(25) < 0.05
    assert miss(25) < miss(2)


@pytest.mark.parametrize("sampled", [False, True])
def test_label_smoothing_equals_the_dense_form(sampled):
    queries, items, targets, bias = some()
    counts = torch.full((N_ITEMS,), 1)
    if sampled:
        targets = targets % 10
        counts[10:] = 2
        once = bias.items < 10
        bias = ScoreBias(bias.positions[once], bias.items[once], bias.values[once])
    for added in (None, bias):
        model = NextItem(NextItemConfig(similarity="inner", label_smoothing=0.1))
        got = model.loss(queries, items, targets, added, counts.float() if sampled else None)
        scores = queries @ items.T
        if added is not None:
            scores = scores.index_put((added.positions, added.items), added.values, accumulate=True)
        scores = scores.repeat_interleave(counts, dim=1)
        want = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=0.1)
        torch.testing.assert_close(got, want)


def small(kind, config):
    return lambda data: kind(config(dimension=8), n_items=data.n_items, max_length=data.max_length)


MODELS = {
    "sasrec": small(SASRec, SASRecConfig),
    "mind": small(MIND, MINDConfig),
    "remi": small(REMI, REMIConfig),
    "larmi": larmi_cases.build,
    "g2rec": g2rec_cases.build,
    "g2rec, interleaved": lambda data: g2rec_cases.build(data, layout="interleaved"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_the_same_where_one_of_two_like_items_stands_for_both(toy_data, monkeypatch, name):
    """One of the two is left out, so the other candidates have numbers of their own."""
    torch.manual_seed(0)
    model = MODELS[name](toy_data).eval()
    batch = next(TrainBatches(toy_data.train, 4, toy_data.max_length).epoch(np.random.default_rng(0)))
    free = sorted(
        set(range(1, toy_data.n_items)) - set(batch.items.flatten().tolist() + batch.targets.flatten().tolist())
    )
    left_out, stays = free[:2]
    assert left_out < int(batch.targets.max())
    tables = [model.items.weight, *(getattr(model, each, None) for each in ("profile_columns", "profile_weights"))]
    with torch.no_grad():
        for table in (each for each in tables if each is not None):
            table[left_out] = table[stays]
    kept = torch.tensor([item for item in range(toy_data.n_items) if item != left_out])
    found = []
    for candidates in (WHOLE, Candidates(kept, 1.0 + (kept == stays))):
        for module in (next_item, interests, larmi):
            monkeypatch.setattr(module, "draw_candidates", lambda *_, found=candidates: found)
        model.zero_grad()
        torch.manual_seed(1)
        loss, _ = model.loss(batch, 1)
        loss.backward()
        gradient = model.items.weight.grad.clone()
        gradient[stays] += gradient[left_out]
        gradient[left_out] = 0
        others = {n: each.grad.clone() for n, each in model.named_parameters() if each.grad is not None}
        found.append({**others, "items.weight": gradient, "loss": loss.detach()})
    assert found[0].keys() == found[1].keys()
    for part, value in found[0].items():
        torch.testing.assert_close(value, found[1][part], atol=1e-6, rtol=1e-4, msg=part)
