"""The items that a step's loss is taken over: the whole catalogue, or those of the batch and a sample of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from recsys_dagster.training.batching import SequenceBatch


@dataclass(frozen=True)
class Candidates:
    """Items with numbers of their own, 0 to m - 1, and how many items of the catalogue each of them stands for.

    A sum over the catalogue is estimated by the sum over the candidates, each counted so many times. The estimate is
    unbiased, and what most of the sum comes from, the items that people have, is in it exactly.

    Attributes:
        items: int64 [m], distinct, rising; None: the whole catalogue.
        stands_for: float [m]; 1 for the batch's items; None: 1 for all.
    """

    items: torch.Tensor | None = None
    stands_for: torch.Tensor | None = None

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Rows [m, ...] of a table [N, ...] of the catalogue."""
        return table if self.items is None else torch.nn.functional.embedding(self.items, table)

    def numbers(self, items: torch.Tensor) -> torch.Tensor:
        """Numbers int64 of items of the batch, in the shape that these have."""
        return items if self.items is None else torch.searchsorted(self.items, items.contiguous())

    def of(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch with the candidates' numbers in place of items."""
        if self.items is None:
            return batch
        targets = None if batch.targets is None else self.numbers(batch.targets)
        return replace(batch, items=self.numbers(batch.items), targets=targets)


WHOLE = Candidates()
"""Every item, by its own number."""


def draw_candidates(n_items: int, negatives: int, batch: SequenceBatch) -> Candidates:
    """The batch's items, and so many of the others, drawn uniformly.

    The draws are with replacement and repetitions are dropped; given how many distinct ones are left, they are a
    uniform sample without replacement, in which each stands for (others) / (distinct ones) items.

    Args:
        n_items: size N of the catalogue.
        negatives: draws; 0, or no less than N: the whole catalogue.
        batch: all its items are candidates; so are those of the larger batch that it is a part of.
    """
    if not 0 < negatives < n_items:
        return WHOLE
    place = batch.place
    whole, device = place.whole, batch.items.device
    own = torch.zeros(n_items, dtype=torch.bool, device=device)
    for items in (whole.items, whole.targets):
        if items is not None:
            own[items.flatten()] = True
    others = (~own).nonzero()[:, 0]
    if len(others) <= negatives:
        return WHOLE
    places = torch.randint(len(others), (negatives,), device=device, generator=place.draws).unique()
    share = torch.full((n_items,), len(others) / len(places), device=device)
    share[own] = 1.0
    own[others[places]] = True
    items = own.nonzero()[:, 0]
    return Candidates(items, share[items])
