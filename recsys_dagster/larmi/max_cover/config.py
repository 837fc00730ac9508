"""Settings of the selection of representative synthesized users."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class MaxCoverConfig(BaseModel):
    """The budget and the solver.

    Every selected clique costs one question to the language model and its share of the contrastive training, so the
    default budget is 5 % of the users, but at least 20 and at most 300 cliques.
    """

    solver: Literal["cardnn", "greedy", "exact", "random"] = Field(
        default="cardnn",
        description="cardnn: the neural solver of the paper, finished by local search; greedy: Figure 5's L-gre, "
        "lazily evaluated, finished likewise; exact: branch and bound (HiGHS), for small instances; random: the "
        "ablation w/o-rep",
    )
    budget: int | None = Field(
        default=None, ge=1, description="Z, the number of cliques to select; overrides the share"
    )
    budget_share: float = Field(
        default=0.05, gt=0, le=1, description="Z as a share of the cliques, where budget is not given"
    )
    budget_at_least: int = Field(default=20, ge=1, description="smallest Z that the share may give")
    budget_at_most: int = Field(default=300, ge=1, description="largest Z that the share may give")
    forced: list[int] = Field(default=[], description="clique ids that are selected whatever they cover")
    forbidden: list[int] = Field(default=[], description="clique ids that are never selected")
    value_file: str | None = Field(
        default=None,
        description="CSV or Parquet file of business weights in place of Eq. 7's: a column `item` (source keys) and "
        "the column value_column; items that it does not name are worth nothing",
    )
    value_column: str = Field(default="value", description="column of value_file: a weight, 0 or more")
    time_limit_s: float | None = Field(
        default=120.0,
        gt=0,
        description="hard limit on the solver's wall time; the best selection so far is kept, and the metadata say "
        "that the clock cut the work (the result then depends on the machine). None: no limit",
    )
    network_steps: int = Field(
        default=10, ge=0, description="cardnn: optimiser steps that adapt the network's weights to the instance"
    )
    score_steps: int = Field(
        default=150, ge=0, description="cardnn: optimiser steps on the scores, over all of the homotopy"
    )
    samples: int = Field(default=4, ge=1, description="cardnn: Gumbel-perturbed copies of the scores in a step")
    search_moves: int | None = Field(
        default=None,
        ge=0,
        description="exchanges that the local search tries beyond the first local optimum (None: 400 for each set of "
        "the budget, at least 100,000); 0 leaves greedy plain and cardnn a descent",
    )
    seed: int = Field(default=0, ge=0, description="seed of the noise, the local search and the random selection")

    def cliques_to_select(self, n_sets: int) -> int:
        """Z for that many cliques; never more than there are."""
        if self.budget is not None:
            return min(self.budget, n_sets)
        share = round(self.budget_share * n_sets)
        return min(max(share, self.budget_at_least), self.budget_at_most, n_sets)
