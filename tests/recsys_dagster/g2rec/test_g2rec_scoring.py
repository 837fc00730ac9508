import numpy as np
import pytest
import torch
from g2rec_cases import SMALL, build, decoded

from recsys_dagster.data.histories import TEST
from recsys_dagster.training import loop
from recsys_dagster.training.batching import pad
from recsys_dagster.training.runtime import Runtime

pytestmark = pytest.mark.usefixtures("small_cutoff")


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_scoring_looks_at_the_state_after_the_last_item(toy_data, layout, layers):
    model = build(toy_data, layout=layout, layers=layers).eval()
    batch = pad(toy_data.history(TEST), np.arange(20), toy_data.max_length)
    with torch.no_grad():
        _, states = decoded(model, batch)
        _, state = model._scores(batch)
    assert len(set(batch.lengths.tolist())) > 1
    last = model.after(batch.lengths - 1)
    torch.testing.assert_close(state, states[torch.arange(20), last])


def test_scores_follow_every_change_of_the_weights(toy_data):
    """X and Y are kept from batch to batch while nothing is learned, and no longer."""
    model, histories, users = build(toy_data), toy_data.history(TEST), np.arange(8)
    before = model.score(users, histories)
    kept = model._vectors._made
    torch.testing.assert_close(model.score(users, histories), before, rtol=0, atol=0)
    assert model._vectors._made is kept
    for change in (model.items.weight, model.prototypes, model.profile_weights):
        with torch.no_grad():
            change.mul_(0.5 + torch.rand_like(change))
        after = model.score(users, histories)
        assert (after != before).any()
        fresh = build(toy_data)
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(fresh.score(users, histories), after)
        before = after
    assert model.vectors()[1].requires_grad


def test_every_validation_is_of_the_weights_of_its_epoch(toy_data, monkeypatch):
    """The optimiser writes in one fused pass, of which PyTorch keeps no count; what is kept must age all the same."""
    model, seen = build(toy_data), []
    kept = loop.validation_recall

    def compare(trained, data):
        users = np.arange(8)
        fresh = build(toy_data)
        fresh.load_state_dict(trained.state_dict())
        history = data.history(TEST)
        torch.testing.assert_close(trained.score(users, history), fresh.score(users, history))
        seen.append(trained.score(users, history))
        return kept(trained, data)

    monkeypatch.setattr(loop, "validation_recall", compare)
    loop.fit(model, toy_data, SMALL.model_copy(update={"epochs": 3}), Runtime(device="cpu", seed=0), label="g2rec")
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_states_at_some_places_are_those_of_all(toy_data, layout, layers):
    model = build(toy_data, layout=layout, layers=layers).eval()
    batch = pad(toy_data.history(TEST), np.arange(20), toy_data.max_length)
    with torch.no_grad():
        tokens, all_states = decoded(model, batch)
        states = all_states.flatten(0, 1)
        places = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))[:30]
        torch.testing.assert_close(model.backbone.some(tokens, places), states[places])
