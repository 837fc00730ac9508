"""Settings of the soft memberships (G2Rec 3.2)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import sparse

from recsys_dagster.g2rec.leiden import LeidenConfig
from recsys_dagster.g2rec.night import row_argmax
from recsys_dagster.g2rec.soft_problem import Floats, SoftProblem
from recsys_dagster.g2rec.soft_solvers import Solution, adam, fixed_point

LEAST_SIZE = 0.5
"""Items that a prototype must hold, all shares together, if it is no item's most probable one."""


class SoftConfig(LeidenConfig):
    """How items are spread over interest prototypes."""

    gammas: list[float] = Field(
        default=[1.0, 10.0, 60.0],
        min_length=1,
        description="Resolution of each level, from coarse to fine; halved where modularity would not be positive.",
    )
    n_prototypes: list[int] | None = Field(
        default=None,
        min_length=1,
        description="Wanted number of prototypes of each level, from coarse to fine, in place of gammas; the gammas "
        "are found by bisection and kept on warm nights.",
    )
    rho: int = Field(default=8, ge=1, description="Most prototypes an item may have at one level.")
    temperatures: list[float] | None = Field(
        default=None,
        description="Softness T of each level; 0 is the paper. None: last night's on a warm start, else chosen on "
        "validation links (0.02 without any).",
    )
    temperature_grid: list[float] = Field(
        default=[0.005, 0.007, 0.01, 0.014, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2],
        min_length=1,
        description="Temperatures tried on validation links.",
    )
    max_modularity_loss: float = Field(
        default=0.03, ge=0, description="Share of a level's hard modularity that a chosen temperature may cost."
    )
    method: Literal["fixed_point", "adam"] = Field(default="fixed_point", description="Solver of the soft modularity.")
    damping: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Largest step size of fixed_point on a device, where all items move at once.",
    )
    tolerance: float = Field(default=3e-4, gt=0, description="fixed_point stops when less mass than this would move.")
    max_iterations: int = Field(default=200, ge=1, description="Most iterations of fixed_point.")
    adam_steps: int = Field(default=1000, ge=1, description="Most steps of adam.")
    learning_rate: float = Field(default=0.1, gt=0, description="Learning rate of adam.")
    inertia: float = Field(
        default=1.0,
        ge=0,
        description="How strongly a warm night holds items to last night's memberships (weight of the divergence from "
        "them, against T times entropy), at levels where that costs less than a tenth of last "
        "night's modularity. 0: tonight's graph alone decides.",
    )
    solver_device: str = Field(default="cpu", description="cpu (all cores), or the torch device that solves: cuda.")
    min_probability: float = Field(
        default=1e-4, ge=0, lt=0.1, description="Smaller memberships are dropped and the rest made to sum to 1 again."
    )

    @property
    def resolutions(self) -> list[float]:
        """What the levels were asked for by: numbers of prototypes, or gammas."""
        return [float(number) for number in self.n_prototypes or self.gammas]

    def solve(self, problem: SoftProblem, start: Floats, temperature: float, tolerance: float) -> Solution:
        """Maximise J at one temperature by the configured solver."""
        if self.method == "adam":
            return adam(problem, start, temperature, learning_rate=self.learning_rate, max_iterations=self.adam_steps)
        return fixed_point(
            problem,
            start,
            temperature,
            damping=self.damping,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
        )

    def published(self, problem: SoftProblem, p: Floats) -> sparse.csr_array:
        """P [N, C'] with small entries and prototypes that hold nearly nothing dropped; rows sum to 1."""
        matrix = problem.support.matrix(np.where(p < self.min_probability, 0.0, p))
        size = np.asarray(matrix.sum(axis=0)).ravel()
        size[row_argmax(matrix)] = np.inf
        matrix = sparse.csr_array(matrix[:, size >= LEAST_SIZE])
        matrix.eliminate_zeros()
        matrix.data /= np.repeat(np.asarray(matrix.sum(axis=1)).ravel(), np.diff(matrix.indptr))
        return matrix
