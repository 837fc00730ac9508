"""How items are ranked: the decoder's scores, what stands beside them, and with what weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

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
from recsys_dagster.training.ranking import catalogue_ranks, entries_of

Terms = dict[str, torch.Tensor]

TERMS = ("graph", "profile", "popularity")
"""What stands beside the decoder's own scores, in the order of the weights."""
GRID = {"graph": (0.0, 0.15, 0.3, 0.6, 1.0, 1.5), "profile": (0.0, 0.1, 0.2, 0.4)}
"""Weights of the first places that are tried, in all combinations."""
CUTOFF = 10
"""k of the NDCG@k that chooses them."""
FIRST_PLACES = 100
"""Places of a ranking that the first weights fill; the deep weights order the rest."""
JUDGES = 10_000
"""Most validation users on whom the weights are chosen."""
JUDGES_AT_ONCE = 256
"""Judges whose scores are held at once."""
RANDOM_ITEMS = 200
"""Items drawn beside each target to learn the deep weights."""
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


class Decoding(nn.Module):
    """Ranks by the decoder's scores and the terms beside them, with one set of weights for the first places.

    What tells the best ten of a catalogue apart is not what tells a good item from any item: popularity misleads among
    the first and helps among the others. So each user's `FIRST_PLACES` best items by the first weights keep their
    places, and the others follow in the order of the deep weights. Without weights the scores stay as they are.

    Args:
        n_items: size of the catalogue.
        edges: number of (item, neighbour) pairs.
    """

    def __init__(self, n_items: int, edges: int) -> None:
        super().__init__()
        self.evidence = GraphEvidence(n_items, edges)
        self.register_buffer("popularity", torch.zeros(n_items))
        self.register_buffer("first", torch.zeros(len(TERMS)))
        self.register_buffer("deep", torch.zeros(len(TERMS)))
        self.popularity: torch.Tensor
        self.first: torch.Tensor
        self.deep: torch.Tensor

    def fill(self, neighbours: sparse.csr_array, popularity: NDArray[np.int64]) -> None:
        """Take in the neighbours of every item (`neighbour_matrix`) and how often it stands in the train split."""
        self.evidence.fill(neighbours)
        self.popularity.copy_(torch.from_numpy(np.log1p(popularity)))

    def terms(self, names: Iterable[str], batch: SequenceBatch, profile: Callable[[], torch.Tensor]) -> Terms:
        """The terms of these names, float [batch, N] each; `profile` is called where its term is wanted."""
        made = {
            "graph": lambda: self.evidence(batch),
            "profile": profile,
            "popularity": lambda: self.popularity.expand(len(batch.lengths), -1),
        }
        return {name: made[name]() for name in names}

    def forward(self, scores: torch.Tensor, batch: SequenceBatch, profile: Callable[[], torch.Tensor]) -> torch.Tensor:
        """float [batch, N]: scores that rank as described.

        Args:
            scores: the decoder's own, float [batch, N].
            batch: the histories.
            profile: gives the fit of items to the predicted profile, float [batch, N].
        """
        of_first, of_deep = (_used(weights) for weights in (self.first, self.deep))
        names = of_first.keys() | of_deep.keys()
        if not names:
            return scores
        terms = self.terms(names, batch, profile)
        first = _weighed(scores, terms, of_first).topk(min(FIRST_PLACES, scores.shape[1]), dim=1)
        deep = _weighed(scores, terms, of_deep)
        deep += first.values[:, -1:] - 1 - deep.amax(1, keepdim=True)  # all of them after the first places
        return deep.scatter_(1, first.indices, first.values)


def _used(weights: torch.Tensor) -> dict[str, float]:
    """The weights of `TERMS`, by name, without those that are 0."""
    return {name: weight for name, weight in zip(TERMS, weights.tolist(), strict=True) if weight}


def _weighed(scores: torch.Tensor, terms: Terms, weights: Mapping[str, float]) -> torch.Tensor:
    """Scores plus the weighed terms, a new tensor."""
    total = scores.clone()
    for name, weight in weights.items():
        if weight:
            total.add_(terms[name], alpha=weight)
    return total


class Decoded(Protocol):
    """A model in evaluation mode whose ranking goes through `Decoding`."""

    max_length: int
    decoding: Decoding

    def score_terms(self, batch: SequenceBatch, names: Iterable[str]) -> tuple[torch.Tensor, Terms]:
        """The model's own scores and the terms of these names, float [batch, N] each."""
        ...


def choose_decoding(model: Decoded, data: SequenceData, seed: int) -> dict[str, float]:
    """Set the weights of the model's `Decoding` from the validation split, in one pass over the model.

    The first weights are the combination of `GRID` with the best NDCG in the full catalogue; of equal ones the smallest
    are taken. The deep weights are learned: they make the targets most likely among random items (`_deep_weights`).

    Args:
        model: trained, in evaluation mode.
        data: the splits.
        seed: of the random items.

    Returns:
        The weights as `first_graph`, `deep_popularity` and so on, and `decoding_ndcg`, what the first ones reach.
    """
    histories, targets = data.history(VALIDATION), _some_targets(data.targets(VALIDATION), JUDGES)
    users = np.flatnonzero((targets.lengths > 0) & (histories.lengths > 0))
    users = users[np.argsort(histories.lengths[users], kind="stable")]
    if not len(users):
        return {}
    device = str(model.decoding.popularity.device)
    generator = torch.Generator().manual_seed(seed)
    combinations = list(itertools.product(*GRID.values()))
    gains, margins = np.zeros(len(combinations)), []
    with Progress("g2rec: weights of decoding", len(users), "users") as progress, torch.no_grad():
        for start in range(0, len(users), JUDGES_AT_ONCE):
            some = users[start : start + JUDGES_AT_ONCE]
            scores, terms = model.score_terms(pad(histories, some, model.max_length).to(device), TERMS)
            rows, items = (torch.from_numpy(part).to(device) for part in entries_of(targets, some))
            for index, weights in enumerate(combinations):
                mixed = _weighed(scores, terms, dict(zip(GRID, weights, strict=True)))
                ranks = catalogue_ranks(mixed, rows, items, histories if data.mask_seen else None, some)
                gains[index] += (1 / np.log2(1 + ranks[ranks <= CUTOFF])).sum()
            drawn = torch.randint(data.n_items, (len(rows), RANDOM_ITEMS), generator=generator).to(device)
            parts = torch.stack([scores, *(terms[name] for name in TERMS)])  # [1 + terms, users, N]
            margin = parts[:, rows[:, None], drawn] - parts[:, rows, items][..., None]
            margins.append(margin.masked_fill(drawn == items[:, None], 0.0).permute(1, 2, 0).cpu())
            progress.update(len(some))
    best, compared, decoding = int(np.argmax(gains)), torch.cat(margins), model.decoding
    found = dict(zip(GRID, combinations[best], strict=True))
    decoding.first.copy_(torch.tensor([found.get(name, 0.0) for name in TERMS]))
    decoding.deep.copy_(_deep_weights(compared))
    chosen = {
        f"{kind}_{name}": float(weight)
        for kind, weights in (("first", decoding.first), ("deep", decoding.deep))
        for name, weight in zip(TERMS, weights, strict=True)
    }
    return chosen | {"decoding_ndcg": float(gains[best]) / len(compared)}


def _deep_weights(margins: torch.Tensor) -> torch.Tensor:
    """Weights of the terms, float [terms]: a conditional logit of the target among random items.

    Minimises the mean over targets of ``log(1 + sum over drawn j of exp(a (s_j - s) + sum over terms of b (t_j - t)))``
    (s, t: those of the target) over a and b, which is convex, and returns b / a; 0 where the decoder's scores do not
    help (a <= 0).

    Args:
        margins: float [targets, drawn, 1 + terms]; the decoder's score and the terms of each drawn item, less the
            target's.
    """
    weights = torch.zeros(margins.shape[2], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        others = (margins @ weights).logsumexp(1)
        loss = torch.nn.functional.softplus(others).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = weights.detach()
    return found[1:] / found[0] if found[0] > 0 else torch.zeros(len(found) - 1)


def _some_targets(targets: Histories, most: int) -> Histories:
    """The targets of at most so many users, evenly spread over the user ids; the others have none."""
    users = np.flatnonzero(targets.lengths > 0)
    kept = np.zeros(targets.n_users, dtype=bool)
    kept[users[np.unique(np.linspace(0, len(users) - 1, min(most, len(users))).round().astype(np.int64))]] = True
    lengths = np.where(kept, targets.lengths, 0)
    items = targets.items[np.repeat(kept, targets.lengths)]
    return Histories(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items, targets.n_items)
