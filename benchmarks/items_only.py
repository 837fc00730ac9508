"""What G2Rec's interest tokens are measured against: its decoder over items alone."""

from __future__ import annotations

import torch
from torch.nn import functional

from recsys_dagster.g2rec.model import G2Rec
from recsys_dagster.training.candidates import WHOLE, Candidates


class ItemsOnly(G2Rec):
    """The same decoder over item tokens alone: no profile is made, added or learned.

    Its settings are the fused layout and `profile_weight` 0.
    """

    def profiles(self, candidates: Candidates = WHOLE) -> torch.Tensor:
        """0, which leaves item vectors as they are."""
        return torch.zeros(())

    def _tokens(self, items: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.token_norm(functional.embedding(items, x)))
