"""LARMI's stages before its model, for benchmarks: clusters, synthesized users, the selection and its clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from recsys_dagster.larmi.cliques import CliqueConfig, build_cliques, clique_users
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig
from recsys_dagster.larmi.max_cover import MaxCoverConfig, build_instance, selection_table, solve
from recsys_dagster.training.data import SequenceData

Synthesis = Literal["neighbours", "random"]
Solver = Literal["cardnn", "greedy", "exact", "random"]


@dataclass(frozen=True)
class Selected:
    """A selection of synthesized users.

    Attributes:
        clusters: their interests, the table `representative_clusters`.
        covered: share of the value that the selection covers.
        users: how many were selected.
    """

    clusters: pd.DataFrame
    covered: float
    users: int


class Stages:
    """The tables that LARMI trains on, each made once; the local clusterer answers.

    Args:
        data: the splits.
        items: the table `items`.
    """

    def __init__(self, data: SequenceData, items: pd.DataFrame) -> None:
        self.data, self.items = data, items
        self.clusterer = LocalClusterer(LocalClustererConfig())
        self.user_clusters, _ = cluster_users(data.train, items, self.clusterer)
        self._cliques: dict[Synthesis, pd.DataFrame] = {}
        self._selected: dict[tuple[Synthesis, Solver], Selected] = {}

    def selected(self, synthesis: Synthesis = "neighbours", solver: Solver = "cardnn") -> Selected:
        """The interests of the synthesized users that a solver selects."""
        if (synthesis, solver) not in self._selected:
            if synthesis not in self._cliques:
                self._cliques[synthesis] = build_cliques(self.data.train, CliqueConfig(synthesis=synthesis))
            cliques, config = self._cliques[synthesis], MaxCoverConfig(solver=solver)
            selection = solve(build_instance(cliques, self.data.train, config), config)
            chosen = clique_users(cliques, selection_table(selection)["clique_id"].to_numpy())
            clusters, _ = cluster_users(chosen, self.items, self.clusterer, what="synthesized users")
            self._selected[synthesis, solver] = Selected(clusters, selection.share, len(selection.chosen))
        return self._selected[synthesis, solver]
