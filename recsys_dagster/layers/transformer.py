"""Self-attention blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a two-layer feed-forward network, each with dropout and a residual.

    Attention is causal unless `forward` is told which positions are real. Sequences are padded on the right, so the
    causal mask alone keeps real positions from seeing padding.
    """

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.project_in, self.project_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.feed = nn.Sequential(
            nn.Linear(d, 4 * d), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * d, d), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Map float [batch, length, d] to the same shape.

        Args:
            x: states.
            real: bool [batch, length], at least one True a row: every position sees all these, before and after it.
                Without it every position sees itself and those before it.
        """
        batch, length, d = x.shape
        qkv = self.project_in(self.attention_norm(x)).view(batch, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch, heads, length, d / heads]
        attended = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if real is None else real[:, None, None, :],
            is_causal=real is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        x = x + functional.dropout(
            self.project_out(attended.transpose(1, 2).reshape(batch, length, d)), self.dropout, self.training
        )
        return x + self.feed(self.feed_norm(x))
