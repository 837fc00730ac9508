"""How a state scores an item: by inner product, or by cosine over a learned temperature."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

START_TEMPERATURE = 0.08
"""Of the cosine; the largest score is one over it. What is learned stays near it."""

SMALLEST_LENGTH = 1e-12

SimilarityName = Literal["cosine", "inner"]


class _Unit(torch.autograd.Function):
    """`torch.nn.functional.normalize` over the last dimension, whose own gradient makes three times as many passes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_min_(SMALLEST_LENGTH)
        unit = wide / length
        ctx.save_for_backward(unit, length)
        ctx.dtype = x.dtype
        return unit

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        unit, length = ctx.saved_tensors
        (gradient,) = grad_outputs
        along = torch.linalg.vecdot(gradient, unit)[..., None]
        return torch.addcmul(gradient, unit, along, value=-1).div_(length).to(ctx.dtype)


def unit_vectors(x: torch.Tensor) -> torch.Tensor:
    """Vectors float [..., d] at length 1, float32; zero stays zero."""
    unit: torch.Tensor = _Unit.apply(x)
    return unit


class Similarity(nn.Module):
    """Prepares states and item vectors so that their inner product is the score.

    With inner products a long vector raises an item for everybody, and on sparse logs lengths learn little but how
    often an item was seen. Cosines leave the direction alone: what is popular no longer comes first by its length.
    """

    def __init__(self, name: SimilarityName) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(START_TEMPERATURE))) if name == "cosine" else None

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """States float [..., d] as queries."""
        if self.log_temperature is None:
            return states
        return unit_vectors(states) * torch.exp(-self.log_temperature)

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Item vectors float [N, d] as keys."""
        return vectors if self.log_temperature is None else unit_vectors(vectors)
