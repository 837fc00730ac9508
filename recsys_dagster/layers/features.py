"""Item vectors made of the features that items share."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from recsys_dagster.data.features import ItemFeatures
from recsys_dagster.layers.sparse import BufferMatrix, csr_pair
from recsys_dagster.training.candidates import Candidates


class FeatureVectors(nn.Module):
    """The mean of the learned vectors of an item's features; 0 for an item without any.

    Which item has which feature is part of the state, so a stored model needs no other table.

    Args:
        n_items: size of the catalogue.
        n_features: number of different features.
        entries: number of (item, feature) pairs.
        d: size of a vector.
    """

    def __init__(self, n_items: int, n_features: int, entries: int, d: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(n_features, d))
        nn.init.normal_(self.vectors, std=0.02)
        self.register_buffer("features", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("starts", torch.zeros(n_items, dtype=torch.int64))
        self.features: torch.Tensor
        self.starts: torch.Tensor
        self.means = BufferMatrix(partial(_means, n_features=n_features))

    @staticmethod
    def shape(features: ItemFeatures | None) -> dict[str, int]:
        """What a model's constructor needs to make room for these features; nothing for none."""
        return (
            {} if features is None else {"n_features": features.n_features, "feature_entries": len(features.features)}
        )

    def fill(self, features: ItemFeatures) -> None:
        """Take in which item has which feature."""
        self.features.copy_(torch.from_numpy(features.features))
        self.starts.copy_(torch.from_numpy(features.indptr[:-1]))

    def forward(self, items: torch.Tensor | None = None) -> torch.Tensor:
        """Of the catalogue, float [N, d], or of some items int64 [m], float [m, d]."""
        return self.means.product(self.vectors, self.features, self.starts, rows=items)


def vectors_with(own: torch.Tensor, candidates: Candidates, *shared: FeatureVectors | None) -> torch.Tensor:
    """Float [m, d]: a candidate's own vector, of a table [N, d], plus the means of what it shares with others."""
    vectors = candidates.rows(own)
    for features in shared:
        if features is not None:
            vectors = vectors + features(candidates.items)
    return vectors


def _means(features: torch.Tensor, starts: torch.Tensor, n_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over an item's features as a sparse matrix [N, n_features], and its transpose."""
    counts = torch.diff(starts, append=torch.tensor([len(features)], device=starts.device))
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    values = torch.repeat_interleave(1.0 / counts.clamp(min=1), counts)
    return csr_pair(rows, features, values, (len(counts), n_features))
