import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.layers.capsules import recency_decay, route, squash, visible_prefixes


def slow_routing(mapped, visible, logits, valid, rounds, maps=None):
    """Eq. 14 and 15 for one prefix of one user, with loops; each interest with a map of its own where there are any."""
    length, d = mapped.shape
    k_all = logits.shape[1]
    g = logits.astype(np.float64).copy()
    m = np.zeros((k_all, d))
    for turn in range(rounds):
        b = np.zeros((length, k_all))
        for j in range(length):
            norm = sum(np.exp(g[j, k]) for k in range(k_all) if valid[k])
            for k in range(k_all):
                if valid[k] and visible[j]:
                    b[j, k] = np.exp(g[j, k]) / norm
        seen_by = [[mapped[j] if maps is None else maps[k] @ mapped[j] for j in range(length)] for k in range(k_all)]
        m = np.array([sum(b[j, k] * seen_by[k][j] for j in range(length)) for k in range(k_all)])
        if turn < rounds - 1:
            for k in range(k_all):
                norm = np.linalg.norm(m[k])
                e = norm**2 / (norm**2 + 1) * m[k] / norm if norm > 0 else m[k]
                for j in range(length):
                    g[j, k] += seen_by[k][j] @ e
    return m, b.T


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    length=st.integers(1, 7),
    k=st.integers(1, 4),
    rounds=st.integers(1, 5),
    own_maps=st.booleans(),
)
def test_routing_equals_the_loops_for_every_prefix(seed, length, k, rounds, own_maps):
    rng = np.random.default_rng(seed)
    mapped = rng.normal(size=(2, length, 5)).astype(np.float32)
    logits = rng.normal(size=(length, k)).astype(np.float32)
    real = rng.integers(1, length + 1, size=2)
    visible = np.tril(np.ones((length, length), bool))[None] & (np.arange(length) < real[:, None])[:, None, :]
    valid = np.broadcast_to(np.arange(k) < np.arange(1, length + 1)[:, None], (2, length, k)).copy()
    maps = rng.normal(size=(k, 5, 5)).astype(np.float32) * 0.5 if own_maps else None
    torch_maps = None if maps is None else torch.from_numpy(maps)
    got, weights = route(*map(torch.from_numpy, (mapped, visible, logits, valid)), rounds, maps=torch_maps)
    for row in range(2):
        for t in range(length):
            want, routed = slow_routing(mapped[row], visible[row, t], logits, valid[row, t], rounds, maps)
            np.testing.assert_allclose(got[row, t].numpy(), want, rtol=2e-3, atol=2e-4)
            np.testing.assert_allclose(weights[row, t].numpy(), routed, rtol=2e-3, atol=2e-4)


def test_squash_by_hand_and_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    squashed = squash(x)
    torch.testing.assert_close(squashed[0], torch.tensor([3.0, 4.0]) / 5 * 25 / 26)
    assert squashed[1].tolist() == [0.0, 0.0]
    assert squash(torch.randn(100, 8) * 50).norm(dim=1).max() < 1
    squashed.sum().backward()
    assert torch.isfinite(x.grad).all()  # an interest that does not exist is 0


def test_what_a_prefix_has_and_how_it_fades_by_hand():
    mask = torch.tensor([[True, True, False]])
    assert visible_prefixes(mask)[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    decay = recency_decay(torch.tensor(0.5), 3)
    torch.testing.assert_close(decay[2], torch.exp(torch.tensor([-1.0, -0.5, 0.0])))


def test_gradients_flow_through_the_last_round_alone():
    generator = torch.Generator().manual_seed(0)
    mapped = torch.randn(1, 4, 3, generator=generator, requires_grad=True)
    visible, valid = torch.ones(1, 1, 4, dtype=torch.bool), torch.ones(1, 1, 2, dtype=torch.bool)
    logits = torch.randn(4, 2, generator=generator)
    out = route(mapped, visible, logits, valid, rounds=3)[0]
    (grad,) = torch.autograd.grad(out.sum(), mapped)
    # the last round's weights are constants that sum to 1 over the interests, so each item's gradient is all ones
    torch.testing.assert_close(grad, torch.ones_like(grad))


def test_an_interest_that_is_not_valid_is_zero():
    mapped = torch.randn(1, 3, 4)
    valid = torch.tensor([[[True, False]]])
    out = route(mapped, torch.ones(1, 1, 3, dtype=torch.bool), torch.zeros(3, 2), valid, rounds=2)[0]
    assert out[0, 0, 1].abs().max() == 0
    torch.testing.assert_close(out[0, 0, 0], mapped.sum(1)[0])


@pytest.mark.parametrize("rounds", [1, 4])
def test_padding_changes_nothing(rounds):
    mapped, logits = torch.randn(1, 6, 4), torch.randn(6, 3)
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    visible = torch.arange(6)[None, None] < 4
    short = route(mapped[:, :4], visible[..., :4], logits[:4], valid, rounds)[0]
    torch.testing.assert_close(route(mapped, visible, logits, valid, rounds)[0], short)
