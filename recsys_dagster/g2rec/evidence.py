"""What the items of a history say of other items, beside the decoder: neighbours, successors, items of like features.

The decoder sees the graph through a few prototypes an item, and features through one vector; what two items have in
common beyond these is in their edges, in who followed whom, and in the features that they share. All of it comes from
the train split and the catalogue. The train split holds every train transition, so this joins at ranking, not in
training, with weights that are chosen on the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from recsys_dagster.data.features import ItemFeatures
from recsys_dagster.data.histories import Histories
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.layers.sparse import BufferMatrix, csr_pair, row_entries
from recsys_dagster.training.batching import SequenceBatch

DECAY = 0.9
"""An item of the history counts this much less with every item after it."""
LEAST_EVIDENCE = 1e-2
"""Added before the logarithm: what an item without any neighbour in the history has."""
LEAST_LIKENESS = 0.05
"""Added before the logarithm: what an item without any feature of the history has."""
SUCCESSION = (1.0, 0.5, 0.25)
"""What it counts that an item came as the next, the second or the third after another."""


def neighbour_matrix(graph: pd.DataFrame, popularity: NDArray[np.int64], most: int) -> sparse.csr_array:
    """``w_ij / sqrt((n_i + 1) (n_j + 1))``, float32 CSR [N, N]: how far two items share their users.

    Args:
        graph: the table `coengagement_graph`.
        popularity: train interactions n of each item [N].
        most: neighbours kept of each item, the nearest first.
    """
    return _nearest(adjacency(graph, len(popularity)), popularity, most)


def successor_matrix(train: Histories, most: int) -> sparse.csr_array:
    """``s_ij / sqrt((n_i + 1) (n_j + 1))``, float32 CSR [N, N]: how often j came soon after i (`SUCCESSION`).

    Args:
        train: the train split, in the order of time.
        most: successors kept of each item, the nearest first.
    """
    users, items = train.users, train.items
    counts = sparse.coo_array((train.n_items, train.n_items)).tocsr()
    for lag, worth in enumerate(SUCCESSION, start=1):
        same = users[lag:] == users[:-lag]
        pair = items[:-lag][same], items[lag:][same]
        counts = counts + sparse.coo_array((np.full(len(pair[0]), worth), pair), shape=counts.shape).tocsr()
    return _nearest(counts, train.popularity(), most)


def _nearest(weights: sparse.csr_array, popularity: NDArray[np.int64], most: int) -> sparse.csr_array:
    """Weights [N, N] over the geometric mean of both items' counts; of each row the largest (ties: the smaller id)."""
    scale = 1.0 / np.sqrt(popularity + 1.0)
    matrix = sparse.csr_array(weights).copy()
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    matrix.data = matrix.data * scale[rows] * scale[matrix.indices]
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    kept = np.sort(order[np.arange(len(rows)) - matrix.indptr[rows] < most])  # rows stay where they are in the order
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=matrix.shape[0]))])
    return sparse.csr_array((matrix.data[kept].astype(np.float32), matrix.indices[kept], indptr), shape=matrix.shape)


def feature_directions(features: ItemFeatures) -> sparse.csr_array:
    """Features of each item at length 1, rare ones weighing more (tf-idf), float32 CSR [N, features]."""
    n_items, frequency = len(features.indptr) - 1, np.bincount(features.features, minlength=features.n_features)
    rarity = np.log(n_items / np.maximum(frequency, 1))[features.features]
    rows = np.repeat(np.arange(n_items), np.diff(features.indptr))
    length = np.sqrt(np.bincount(rows, weights=rarity**2, minlength=n_items))
    values = (rarity / np.maximum(length[rows], 1e-9)).astype(np.float32)
    return sparse.csr_array((values, features.features, features.indptr), shape=(n_items, features.n_features))


@dataclass(frozen=True)
class EvidenceTables:
    """All that decoding looks up.

    Attributes:
        neighbours: see `neighbour_matrix`.
        successors: see `successor_matrix`.
        directions: see `feature_directions`; None without features.
        popularity: int64 [N], train interactions of each item.
    """

    neighbours: sparse.csr_array
    successors: sparse.csr_array
    directions: sparse.csr_array | None
    popularity: NDArray[np.int64]

    @classmethod
    def of(cls, graph: pd.DataFrame, train: Histories, features: ItemFeatures | None, most: int) -> EvidenceTables:
        """From the table `coengagement_graph`, the train split and items' features; at most so many pairs an item."""
        popularity = train.popularity()
        directions = None if features is None else feature_directions(features)
        return cls(neighbour_matrix(graph, popularity, most), successor_matrix(train, most), directions, popularity)

    @property
    def shape(self) -> dict[str, int]:
        """What a model's constructor needs to make room for them."""
        return {"edges": self.neighbours.nnz, "successions": self.successors.nnz}


class Evidence(nn.Module):
    """A sparse matrix with a row for every item, and its rows summed over histories.

    Args:
        n_items: number of rows N.
        n_columns: number of columns.
        entries: number of entries.
    """

    def __init__(self, n_items: int, n_columns: int, entries: int) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.register_buffer("starts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(entries, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(entries))
        self.starts: torch.Tensor
        self.columns: torch.Tensor
        self.values: torch.Tensor

    def fill(self, matrix: sparse.csr_array) -> None:
        """Take in the matrix, CSR [N, columns]."""
        self.starts.copy_(torch.from_numpy(matrix.indptr.astype(np.int64)))
        self.columns.copy_(torch.from_numpy(matrix.indices.astype(np.int32)))
        self.values.copy_(torch.from_numpy(matrix.data))

    def total(self, batch: SequenceBatch) -> torch.Tensor:
        """``sum over the history of DECAY^lag * row of the item``, float [batch, columns]."""
        row, item, weight = _weights(batch)
        entry, counts = row_entries(self.starts, item)
        place = torch.repeat_interleave(row * self.n_columns, counts) + self.columns[entry]
        found = torch.zeros(len(batch.lengths) * self.n_columns, device=row.device)
        found.index_add_(0, place, torch.repeat_interleave(weight, counts) * self.values[entry])
        return found.view(-1, self.n_columns)


class NeighbourEvidence(Evidence):
    """``log(e + total)`` of a matrix [N, N]: items that are near to recent ones."""

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """float [batch, N]."""
        return (self.total(batch) + LEAST_EVIDENCE).log()


class LikenessEvidence(Evidence):
    """``log(e + mean cosine)`` of each item's features with those of the history, recent items counting more."""

    def __init__(self, n_items: int, n_features: int, entries: int) -> None:
        super().__init__(n_items, n_features, entries)
        self.directions = BufferMatrix(partial(_csr, n_columns=n_features))

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """float [batch, N]."""
        row, _, weight = _weights(batch)
        weights = torch.zeros(len(batch.lengths), device=row.device).index_add_(0, row, weight)
        mean = self.total(batch) / weights.clamp(min=1e-9)[:, None]
        cosine = self.directions.product(mean.T.contiguous(), self.starts, self.columns, self.values).T
        return (cosine + LEAST_LIKENESS).log()


def _weights(batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, item and weight ``DECAY^lag`` of every position of the histories."""
    row, position = batch.mask.nonzero(as_tuple=True)
    return row, batch.items[row, position], DECAY ** (batch.lengths[row] - 1 - position).float()


def _csr(
    starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, n_columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix of these buffers, and its transpose."""
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=starts.device), starts.diff())
    return csr_pair(rows, columns.long(), values, (len(starts) - 1, n_columns))
