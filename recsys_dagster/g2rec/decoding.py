"""What is added to the decoder's scores when items are ranked: the graph's own evidence, and with what weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from recsys_dagster.data.histories import VALIDATION, Histories
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.ranking import catalogue_ranks

if TYPE_CHECKING:
    from recsys_dagster.g2rec.model import G2Rec

WEIGHTS = {"graph_decoding": (0.0, 0.15, 0.3, 0.6, 1.0, 1.5), "profile_decoding": (0.0, 0.1, 0.2, 0.4)}
"""Weights of the two terms that are tried, in all combinations."""
CUTOFF = 10
"""k of the NDCG@k that chooses the weights."""
JUDGES = 10_000
"""Most validation users on whom the weights are chosen."""
JUDGES_AT_ONCE = 256
"""Judges whose scores are held at once."""
DECAY = 0.8
"""An item of the history counts this much less with every item after it."""
LEAST_EVIDENCE = 1e-3
"""Added before the logarithm: what an item without any evidence has."""


def neighbour_matrix(graph: pd.DataFrame, popularity: NDArray[np.int64], most: int) -> sparse.csr_array:
    """``w_ij / sqrt((n_i + 1) (n_j + 1))``, float32 CSR [N, N]: how far two items share their users.

    Args:
        graph: the table `coengagement_graph`.
        popularity: train interactions n of each item [N].
        most: neighbours kept of each item, the nearest first.
    """
    scale = 1.0 / np.sqrt(popularity + 1.0)
    matrix = adjacency(graph, len(popularity)).copy()
    matrix.data *= np.repeat(scale, np.diff(matrix.indptr)) * scale[matrix.indices]
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    kept = np.sort(order[np.arange(len(rows)) - matrix.indptr[rows] < most])  # rows stay where they are in the order
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=matrix.shape[0]))])
    return sparse.csr_array((matrix.data[kept].astype(np.float32), matrix.indices[kept], indptr), shape=matrix.shape)


class GraphEvidence(nn.Module):
    """``log(e + sum over the history of decay^lag * similarity)``: items that share users with recent ones.

    The decoder sees the graph through a few prototypes an item; what two items have in common beyond these is in its
    edges. The graph is built from the train split, so it knows every train transition: it joins at ranking, not in
    training, with a weight that is chosen on the validation split.

    Args:
        n_items: size of the catalogue.
        edges: number of (item, neighbour) pairs.
    """

    def __init__(self, n_items: int, edges: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("neighbours", torch.zeros(edges, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(edges))
        self.starts: torch.Tensor
        self.neighbours: torch.Tensor
        self.similarity: torch.Tensor

    def fill(self, matrix: sparse.csr_array) -> None:
        """Take in the neighbours of every item."""
        self.starts.copy_(torch.from_numpy(matrix.indptr.astype(np.int64)))
        self.neighbours.copy_(torch.from_numpy(matrix.indices.astype(np.int32)))
        self.similarity.copy_(torch.from_numpy(matrix.data))

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """float [batch, N]."""
        n_items = len(self.starts) - 1
        row, position = batch.mask.nonzero(as_tuple=True)
        item = batch.items[row, position]
        weight = DECAY ** (batch.lengths[row] - 1 - position).float()
        starts, counts = self.starts[item], self.starts[item + 1] - self.starts[item]
        within = torch.arange(int(counts.sum()), device=row.device)
        within = within - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        edge = torch.repeat_interleave(starts, counts) + within
        place = torch.repeat_interleave(row * n_items, counts) + self.neighbours[edge]
        found = torch.zeros(len(batch.lengths) * n_items, device=row.device)
        found.index_add_(0, place, torch.repeat_interleave(weight, counts) * self.similarity[edge])
        return (found.view(-1, n_items) + LEAST_EVIDENCE).log()


def choose_decoding(model: G2Rec, data: SequenceData) -> dict[str, float]:
    """Set the weights of the terms to the combination of `WEIGHTS` with the best NDCG on the validation split.

    One pass over the model ranks the targets under all combinations; of equal ones the smallest weights are taken. The
    weights are buffers of the model under these names.

    Returns:
        The chosen weights, and `decoding_ndcg`, what they reach on the judges.
    """
    histories, targets = data.history(VALIDATION), _some_targets(data.targets(VALIDATION), JUDGES)
    users = np.flatnonzero((targets.lengths > 0) & (histories.lengths > 0))
    users = users[np.argsort(histories.lengths[users], kind="stable")]
    model.eval()
    device = str(next(model.parameters()).device)
    combinations = list(itertools.product(*WEIGHTS.values()))
    gains = np.zeros(len(combinations))
    with Progress("g2rec: weights of decoding", len(users), "users") as progress, torch.no_grad():
        for start in range(0, len(users), JUDGES_AT_ONCE):
            some = users[start : start + JUDGES_AT_ONCE]
            scores, terms = model.score_terms(pad(histories, some, model.max_length).to(device), WEIGHTS)
            for index, weights in enumerate(combinations):
                mixed = scores.clone()
                for name, weight in zip(WEIGHTS, weights, strict=True):
                    if weight:
                        mixed.add_(terms[name], alpha=weight)
                ranks = catalogue_ranks(mixed, some, histories, targets, mask_seen=data.mask_seen)
                gains[index] += (1 / np.log2(1 + ranks[ranks <= CUTOFF])).sum()
            progress.update(len(some))
    best = int(np.argmax(gains))
    chosen = dict(zip(WEIGHTS, combinations[best], strict=True))
    for name, weight in chosen.items():
        getattr(model, name).fill_(weight)
    return chosen | {"decoding_ndcg": float(gains[best]) / max(int(targets.lengths.sum()), 1)}


def _some_targets(targets: Histories, most: int) -> Histories:
    """The targets of at most so many users, evenly spread over the user ids; the others have none."""
    users = np.flatnonzero(targets.lengths > 0)
    kept = np.zeros(targets.n_users, dtype=bool)
    kept[users[np.unique(np.linspace(0, len(users) - 1, min(most, len(users))).round().astype(np.int64))]] = True
    lengths = np.where(kept, targets.lengths, 0)
    items = targets.items[np.repeat(kept, targets.lengths)]
    return Histories(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items, targets.n_items)
