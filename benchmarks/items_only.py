"""What G2Rec's interest tokens are measured against: its decoder over items alone."""

from __future__ import annotations

import torch

from recsys_dagster.g2rec.model import G2Rec, Vectors
from recsys_dagster.training.candidates import Candidates


class ItemsOnly(G2Rec):
    """The same decoder over item tokens alone: no profile is made, added or learned.

    Its settings are the fused layout and `profile_weight` 0.
    """

    def _made_vectors(self, candidates: Candidates) -> Vectors:
        x = self.item_vectors(candidates)
        return x, torch.zeros(()), x
