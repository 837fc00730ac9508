"""How a state scores an item: by inner product, or by cosine over a learned temperature."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

START_TEMPERATURE = 0.08
"""Of the cosine; the largest score is one over it. What is learned stays near it."""

SimilarityName = Literal["cosine", "inner"]


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
        return functional.normalize(states, dim=-1) * torch.exp(-self.log_temperature)

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Item vectors float [N, d] as keys."""
        return vectors if self.log_temperature is None else functional.normalize(vectors, dim=-1)
