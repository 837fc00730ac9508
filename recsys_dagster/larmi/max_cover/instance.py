"""The max-cover instance (LARMI, Eq. 6-8): which few synthesized users cover the most valuable items."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.max_cover.config import MaxCoverConfig


def _none() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CoverInstance:
    """P sets over Q objects with values, of which at most `budget` may be chosen.

    Attributes:
        indptr: int64 [P + 1]; set i holds ``items[indptr[i]:indptr[i + 1]]``.
        items: int32 [memberships]; objects, distinct within a set.
        values: float64 [Q]; w_j of Eq. 7 or a business weight, not negative.
        budget: Z.
        set_ids: int64 [P]; what a set is called outside (clique_id); 0..P-1 if not given.
        forced: int64; indices that every selection holds, at most `budget` of them.
        forbidden: int64; indices that no selection holds.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float64]
    budget: int
    set_ids: NDArray[np.int64] | None = None
    forced: NDArray[np.int64] = field(default_factory=_none)
    forbidden: NDArray[np.int64] = field(default_factory=_none)

    @property
    def n_sets(self) -> int:
        """P, the number of sets."""
        return len(self.indptr) - 1

    @cached_property
    def by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The other way round: (indptr [Q + 1], sets); object j is in ``sets[indptr[j]:indptr[j + 1]]``."""
        from scipy.sparse import csr_array

        shape = (self.n_sets, len(self.values))
        transposed = csr_array((np.ones(len(self.items), dtype=np.int8), self.items, self.indptr), shape=shape).tocsc()
        return transposed.indptr.astype(np.int64), transposed.indices.astype(np.int32)

    def matrix(self) -> Any:
        """A of Eq. 7 as a scipy CSR array [P, Q] of float64 ones."""
        from scipy.sparse import csr_array

        return csr_array((np.ones(len(self.items)), self.items, self.indptr), shape=(self.n_sets, len(self.values)))

    def of(self, index: int) -> NDArray[np.int32]:
        """Objects of one set."""
        return self.items[self.indptr[index] : self.indptr[index + 1]]

    def covered_value(self, chosen: NDArray[np.int64]) -> float:
        """The objective of Eq. 6 for a list of sets."""
        covered = np.zeros(len(self.values), dtype=bool)
        covered[gather(self.indptr, self.items, np.asarray(chosen, dtype=np.int64))] = True
        return float(self.values[covered].sum())

    def marginals(self, ordered: NDArray[np.int64]) -> NDArray[np.float64]:
        """What each set of a list adds to those before it."""
        items = gather(self.indptr, self.items, ordered)
        rank = np.repeat(np.arange(len(ordered)), self.indptr[ordered + 1] - self.indptr[ordered])
        _, first = np.unique(items, return_index=True)
        marginal = np.bincount(rank[first], self.values[items[first]], minlength=len(ordered))
        return marginal.astype(np.float64)  # of whole numbers where there is nothing to count

    def reachable(self) -> float:
        """Value of every object that some set holds (forbidden ones left out)."""
        return self.covered_value(np.setdiff1d(np.arange(self.n_sets), self.forbidden))

    def names(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """What these sets are called outside."""
        return chosen if self.set_ids is None else self.set_ids[chosen]

    def freed(self) -> CoverInstance:
        """The same sets with none forced or forbidden."""
        return replace(self, forced=_none(), forbidden=_none())

    def with_budget(self, budget: int) -> CoverInstance:
        """The same sets with another Z (cut to what there is)."""
        return replace(self, budget=min(budget, self.n_sets))


def item_values(histories: Histories) -> NDArray[np.float64]:
    """w_j of Eq. 7: 1 + (users who have item j) / (all interactions), from the train histories; float64 [N]."""
    if not len(histories.items):
        return np.ones(histories.n_items)
    pairs = np.unique(histories.users.astype(np.int64) * histories.n_items + histories.items)
    users = np.bincount(pairs % histories.n_items, minlength=histories.n_items)
    return 1 + users / len(histories.items)


def build_instance(
    cliques: pd.DataFrame,
    histories: Histories,
    config: MaxCoverConfig,
    values: NDArray[np.float64] | None = None,
) -> CoverInstance:
    """Build the instance of Eq. 6 from the cliques and the train histories.

    Args:
        cliques: columns clique_id and items (sorted, distinct item ids).
        histories: train histories, for the values.
        config: the budget, forced and forbidden cliques.
        values: float64 [N], weights in place of Eq. 7's.

    Raises:
        RecsysError: no clique; values that are negative or not finite; forced or forbidden cliques that do not fit.
    """
    if not len(cliques):
        raise RecsysError("user_cliques: no rows, so nothing can be selected.", mend="materialize `user_cliques`.")
    lists = [np.asarray(ids, dtype=np.int32) for ids in cliques["items"]]
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int64)
    names = cliques["clique_id"].to_numpy(dtype=np.int64)
    values = item_values(histories) if values is None else np.asarray(values, dtype=np.float64)
    if len(values) != histories.n_items or not np.isfinite(values).all() or (values < 0).any():
        raise RecsysError(
            f"item values: expected {histories.n_items} finite numbers >= 0, one an item, found {len(values)} with "
            f"{int((~(values >= 0)).sum())} negative or missing.",
            mend="correct the column of weights.",
        )
    budget = config.cliques_to_select(len(lists))
    forced, forbidden = _places(names, config.forced, "forced"), _places(names, config.forbidden, "forbidden")
    both = np.intersect1d(forced, forbidden)
    if len(both):
        raise RecsysError(
            f"representative_users: clique {int(names[both[0]])} is forced and forbidden.", mend="keep it in one list."
        )
    if len(forced) > budget:
        raise RecsysError(
            f"representative_users: {len(forced)} cliques are forced, the budget is {budget}.",
            mend="raise `budget` or shorten `forced`.",
        )
    return CoverInstance(indptr, np.concatenate(lists), values, budget, names, forced, forbidden)


def _places(names: NDArray[np.int64], wanted: list[int], setting: str) -> NDArray[np.int64]:
    """Rows of the cliques that a setting names, without repeats."""
    ids = np.unique(np.asarray(wanted, dtype=np.int64))
    order = np.argsort(names, kind="stable")
    place = np.searchsorted(names, ids, sorter=order)
    found = order[np.minimum(place, len(names) - 1)]
    missing = ids[names[found] != ids]
    if len(missing):
        raise RecsysError(
            f"representative_users: `{setting}` names clique {int(missing[0])}, which is not in user_cliques "
            f"(ids are user ids, {int(names.min())} to {int(names.max())}).",
            mend="take ids from the column clique_id of `user_cliques`.",
        )
    return found.astype(np.int64)


def gather(indptr: NDArray[np.int64], values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Concatenate ``values[indptr[r]:indptr[r + 1]]`` over `rows`, without a loop."""
    starts, counts = indptr[rows], indptr[rows + 1] - indptr[rows]
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return values[:0]
    return values[np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)]
