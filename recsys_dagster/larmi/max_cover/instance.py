"""The max-cover instance (LARMI, Eq. 6-8): which few synthesized users cover the most valuable items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError


class MaxCoverConfig(BaseModel):
    """The budget and the solver.

    Every selected clique costs one question to the language model and its share of the contrastive training, so the
    default budget is 5 % of the users, but at least 20 and at most 300 cliques.
    """

    solver: Literal["cardnn", "greedy", "random"] = Field(
        default="cardnn",
        description="cardnn: the neural solver of the paper; greedy: Figure 5's L-gre; random: the ablation w/o-rep",
    )
    budget: int | None = Field(
        default=None, ge=1, description="Z, the number of cliques to select; overrides the share"
    )
    budget_share: float = Field(
        default=0.05, gt=0, le=1, description="Z as a share of the cliques, where budget is not given"
    )
    budget_at_least: int = Field(default=20, ge=1, description="smallest Z that the share may give")
    budget_at_most: int = Field(default=300, ge=1, description="largest Z that the share may give")
    network_steps: int = Field(default=20, ge=0, description="cardnn: optimiser steps on the weights of the network")
    score_steps: int = Field(
        default=150, ge=0, description="cardnn: optimiser steps on the scores, over all of the homotopy"
    )
    samples: int = Field(default=4, ge=1, description="cardnn: Gumbel-perturbed copies of the scores in a step")
    hidden: int = Field(default=16, ge=1, description="cardnn: width of the network")
    swap_passes: int = Field(
        default=20, ge=0, description="passes of the swap local search over the selection, at most"
    )
    seed: int = Field(default=0, ge=0, description="seed of the network, the noise and the random selection")

    def cliques_to_select(self, n_sets: int) -> int:
        """Z for that many cliques; never more than there are."""
        if self.budget is not None:
            return min(self.budget, n_sets)
        share = round(self.budget_share * n_sets)
        return min(max(share, self.budget_at_least), self.budget_at_most, n_sets)


@dataclass(frozen=True, eq=False)
class CoverInstance:
    """P sets over Q objects with values, of which at most `budget` may be chosen.

    Attributes:
        indptr: int64 [P + 1]; set i holds ``items[indptr[i]:indptr[i + 1]]``.
        items: int32 [memberships]; objects, distinct within a set.
        values: float64 [Q]; w_j of Eq. 7, not negative.
        budget: Z.
        set_ids: int64 [P]; what a set is called outside (clique_id); 0..P-1 if not given.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float64]
    budget: int
    set_ids: NDArray[np.int64] | None = None

    @property
    def n_sets(self) -> int:
        """P, the number of sets."""
        return len(self.indptr) - 1

    @cached_property
    def by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The other way round: (indptr [Q + 1], sets); object j is in ``sets[indptr[j]:indptr[j + 1]]``."""
        transposed = self.matrix().T.tocsr()
        return transposed.indptr.astype(np.int64), transposed.indices.astype(np.int64)

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
        for index in chosen:
            covered[self.of(int(index))] = True
        return float(self.values[covered].sum())


def item_values(histories: Histories) -> NDArray[np.float64]:
    """w_j of Eq. 7: 1 + (users who have item j) / (all interactions), from the train histories; float64 [N]."""
    if not len(histories.items):
        return np.ones(histories.n_items)
    pairs = np.unique(histories.users.astype(np.int64) * histories.n_items + histories.items)
    users = np.bincount(pairs % histories.n_items, minlength=histories.n_items)
    return 1 + users / len(histories.items)


def build_instance(cliques: pd.DataFrame, histories: Histories, config: MaxCoverConfig) -> CoverInstance:
    """Build the instance of Eq. 6 from the cliques and the train histories.

    Args:
        cliques: columns clique_id and items (sorted, distinct item ids).
        histories: train histories, for the values.
        config: the budget.

    Raises:
        RecsysError: if there is no clique.
    """
    if not len(cliques):
        raise RecsysError("user_cliques: no rows, so nothing can be selected.", mend="materialize `user_cliques`.")
    lists = [np.asarray(ids, dtype=np.int32) for ids in cliques["items"]]
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int64)
    return CoverInstance(
        indptr,
        np.concatenate(lists),
        item_values(histories),
        config.cliques_to_select(len(lists)),
        cliques["clique_id"].to_numpy(dtype=np.int64),
    )


def gather(indptr: NDArray[np.int64], values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Concatenate ``values[indptr[r]:indptr[r + 1]]`` over `rows`, without a loop."""
    starts, counts = indptr[rows], indptr[rows + 1] - indptr[rows]
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return values[:0]
    return values[np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)]
