import numpy as np
import pytest
import torch

from recsys_dagster.layers.transformer import TransformerBlock

D, HEADS, LENGTH = 6, 2, 5


@pytest.fixture
def block():
    torch.manual_seed(0)
    return TransformerBlock(D, HEADS, dropout=0.0).eval()


def slow_attention(block, x, sees):
    """Softmax attention of one sequence float [length, d]; position t sees the positions in ``sees[t]``."""
    x = block.attention_norm(torch.tensor(x)).detach().double().numpy()
    w, b = block.project_in.weight.detach().double().numpy(), block.project_in.bias.detach().double().numpy()
    q, k, v = np.split(x @ w.T + b, 3, axis=1)
    out, size = np.zeros_like(x), D // HEADS
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        for t in range(len(x)):
            weights = np.array([np.exp(q[t, own] @ k[j, own] / np.sqrt(size)) for j in sees[t]])
            out[t, own] = sum(a * v[j, own] for a, j in zip(weights / weights.sum(), sees[t], strict=True))
    w, b = block.project_out.weight.detach().double().numpy(), block.project_out.bias.detach().double().numpy()
    return out @ w.T + b


@pytest.mark.parametrize("real", [None, 5, 3])
def test_attention_equals_the_slow_one(block, real):
    x = torch.randn(1, LENGTH, D)
    if real is None:
        states, sees, length = block(x), [range(t + 1) for t in range(LENGTH)], LENGTH
    else:
        states, sees, length = block(x, torch.arange(LENGTH)[None] < real), [range(real)] * LENGTH, real
    attended = x[0].double().numpy() + slow_attention(block, x[0].numpy(), sees)
    fed = torch.tensor(attended, dtype=torch.float32)
    want = fed + block.feed(block.feed_norm(fed))
    torch.testing.assert_close(states[0, :length], want[:length], rtol=1e-4, atol=1e-5)
