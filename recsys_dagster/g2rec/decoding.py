"""How items are ranked: the decoder's scores, what stands beside them, and with what weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys_dagster.data.histories import VALIDATION, Histories
from recsys_dagster.g2rec.evidence import EvidenceTables, LikenessEvidence, NeighbourEvidence
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.ranking import entries_of

Terms = dict[str, torch.Tensor]

TERMS = ("graph", "successors", "features", "profile", "popularity")
"""What stands beside the decoder's own scores, in the order of the weights."""
GRID = {
    "graph": (0.0, 0.3, 0.6, 1.0, 1.5, 2.2),
    "successors": (0.0, 0.3, 0.6, 0.9, 1.3),
    "features": (0.0, 0.4, 0.8, 1.2, 1.6),
    "profile": (0.0, 0.1, 0.2, 0.4),
}
"""Weights of the first places that are tried, in all combinations."""
CUTOFF = 10
"""k of the NDCG@k that chooses them."""
CANDIDATES = 200
"""Items of a judge among whom the first weights are chosen: the best by the middle weights of the grid."""
FIRST_PLACES = 100
"""Places of a ranking that the first weights fill; the deep weights order the rest."""
JUDGES = 30_000
"""Most validation users on whom the weights are chosen."""
JUDGES_AT_ONCE = 256
"""Judges whose scores are held at once."""
RANDOM_ITEMS = 200
"""Items drawn beside each target to learn the deep weights."""


class Decoding(nn.Module):
    """Ranks by the decoder's scores and the terms beside them, with one set of weights for the first places.

    What tells the best ten of a catalogue apart is not what tells a good item from any item: popularity misleads among
    the first and helps among the others. So each user's `FIRST_PLACES` best items by the first weights keep their
    places, and the others follow in the order of the deep weights. Without weights the scores stay as they are.

    Args:
        n_items: size of the catalogue.
        edges: number of (item, neighbour) pairs.
        successions: number of (item, successor) pairs.
        n_features: number of item features, 0 for none.
        feature_entries: number of (item, feature) pairs.
    """

    def __init__(
        self, n_items: int, *, edges: int, successions: int, n_features: int = 0, feature_entries: int = 0
    ) -> None:
        super().__init__()
        self.graph = NeighbourEvidence(n_items, n_items, edges)
        self.successors = NeighbourEvidence(n_items, n_items, successions)
        self.features = LikenessEvidence(n_items, n_features, feature_entries) if n_features else None
        self.register_buffer("popularity", torch.zeros(n_items))
        self.register_buffer("first", torch.zeros(len(TERMS)))
        self.register_buffer("deep", torch.zeros(len(TERMS)))
        self.popularity: torch.Tensor
        self.first: torch.Tensor
        self.deep: torch.Tensor

    @property
    def names(self) -> list[str]:
        """The terms that this model has."""
        return [name for name in TERMS if name != "features" or self.features is not None]

    def fill(self, tables: EvidenceTables) -> None:
        """Take in what the terms are made of."""
        self.graph.fill(tables.neighbours)
        self.successors.fill(tables.successors)
        if self.features is not None and tables.directions is not None:
            self.features.fill(tables.directions)
        self.popularity.copy_(torch.from_numpy(np.log1p(tables.popularity)))

    def terms(self, names: Iterable[str], batch: SequenceBatch, profile: Callable[[], torch.Tensor]) -> Terms:
        """The terms of these names, float [batch, N] each; `profile` is called where its term is wanted."""
        made: dict[str, Callable[[], torch.Tensor]] = {
            "graph": lambda: self.graph(batch),
            "successors": lambda: self.successors(batch),
            "profile": profile,
            "popularity": lambda: self.popularity.expand(len(batch.lengths), -1),
        }
        if self.features is not None:
            features = self.features
            made["features"] = lambda: features(batch)
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

    The first weights are the combination of `GRID` with the best NDCG among each judge's candidates (see `CANDIDATES`);
    of equal ones the smallest are taken. The deep weights are learned: they make the targets most likely among random
    items (`_deep_weights`).

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
    generator, names = torch.Generator().manual_seed(seed), model.decoding.names
    near, far = [], []
    with Progress("g2rec: weights of decoding", len(users), "users") as progress, torch.no_grad():
        for start in range(0, len(users), JUDGES_AT_ONCE):
            some = users[start : start + JUDGES_AT_ONCE]
            scores, terms = model.score_terms(pad(histories, some, model.max_length).to(device), names)
            rows, items = (torch.from_numpy(part).to(device) for part in entries_of(targets, some))
            parts = torch.stack([scores, *(terms[name] for name in names)])  # [1 + terms, users, N]
            own = parts[:, rows, items][..., None]
            seen = entries_of(histories, some) if data.mask_seen else None
            best, others = _candidates(scores, terms, seen)
            margin = parts[:, rows[:, None], best[rows]] - own
            margin[0].masked_fill_((best[rows] == items[:, None]) | ~others[rows], -torch.inf)
            near.append(margin.permute(1, 2, 0).cpu())
            drawn = torch.randint(data.n_items, (len(rows), RANDOM_ITEMS), generator=generator).to(device)
            margin = (parts[:, rows[:, None], drawn] - own).masked_fill(drawn == items[:, None], 0.0)
            far.append(margin.permute(1, 2, 0).cpu())
            progress.update(len(some))
    first, ndcg = _first_weights(torch.cat(near), names)
    deep = dict(zip(names, _deep_weights(torch.cat(far)).tolist(), strict=True))
    for into, found in ((model.decoding.first, first), (model.decoding.deep, deep)):
        into.copy_(torch.tensor([found.get(name, 0.0) for name in TERMS]))
    chosen = {f"first_{name}": weight for name, weight in first.items()}
    return chosen | {f"deep_{name}": weight for name, weight in deep.items()} | {"decoding_ndcg": ndcg}


def _candidates(
    scores: torch.Tensor, terms: Terms, seen: tuple[NDArray[np.int64], NDArray[np.int64]] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best items by the middle weights of the grid, int64 [users, candidates], and which of them may be ranked."""
    mixed = _weighed(scores, terms, {name: GRID[name][len(GRID[name]) // 2] for name in GRID if name in terms})
    if seen is not None:
        row, item = (torch.from_numpy(part).to(scores.device) for part in seen)
        mixed[row, item] = -torch.inf
    best = mixed.topk(min(CANDIDATES, mixed.shape[1]), dim=1)
    return best.indices, best.values > -torch.inf


def _first_weights(margins: torch.Tensor, names: list[str]) -> tuple[dict[str, float], float]:
    """The combination of `GRID` with the best NDCG@`CUTOFF` of the targets among their candidates, and that NDCG.

    Args:
        margins: float [targets, candidates, 1 + terms]; the decoder's score (-inf: no candidate) and the terms of each
            candidate, less the target's.
        names: of the terms.
    """
    best, reached = {}, -1.0
    for weights in itertools.product(*(GRID.get(name, (0.0,)) for name in names)):
        others = margins @ torch.tensor([1.0, *weights])
        ranks = 1 + (others > 0).sum(1) + 0.5 * (others == 0).sum(1)
        ndcg = float((1 / torch.log2(1 + ranks[ranks <= CUTOFF].double())).sum() / len(ranks))
        if ndcg > reached:
            best, reached = dict(zip(names, weights, strict=True)), ndcg
    return best, reached


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
