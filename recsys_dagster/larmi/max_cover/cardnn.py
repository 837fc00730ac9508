"""The neural max-cover solver of LARMI's appendix A.2 (after Wang et al., 2022), with an exact cardinality constraint.

A three-layer GraphSAGE over the bipartite graph of sets and objects scores the sets; Gumbel-perturbed copies of the
scores are turned into fractional selections of exactly Z sets; the covered value of these is maximised by gradient
ascent. The shipped weights were trained so on generated instances (`pretrain`). On the instance at hand they are
trained on for a few steps, then the scores themselves, while temperature and noise fall (homotopy). The best rounded
selection met on the way is kept.

This module imports torch at the top; import it inside functions only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_dagster.larmi.max_cover.clock import Clock, Incumbent, OutOfTime
from recsys_dagster.larmi.max_cover.config import MaxCoverConfig
from recsys_dagster.larmi.max_cover.instance import CoverInstance
from recsys_dagster.larmi.max_cover.network import HOMOTOPY, Graph, gumbel, make_graph, pretrained, uncovered
from recsys_dagster.one_thread import one_thread
from recsys_dagster.progress import Progress

SHARE = 0.6
"""Share of a time limit that the network may use; the rest is the local search's."""


def solve_cardnn(
    instance: CoverInstance,
    config: MaxCoverConfig,
    clock: Clock | None = None,
    incumbent: Incumbent | None = None,
) -> NDArray[np.int64]:
    """Choose `budget` sets with the neural solver, without local search.

    Args:
        instance: sets, values, budget, forced and forbidden sets.
        config: steps, samples, seed.
        clock: after `SHARE` of its limit the best so far is returned.
        incumbent: is offered every better selection.

    Returns:
        int64 [at most budget]: indices in order of score; empty if the clock left no time for a single score.
    """
    clock = clock or Clock()
    best = _Best(instance, clock, incumbent)
    if instance.budget >= instance.n_sets - len(instance.forbidden):
        return np.setdiff1d(np.arange(instance.n_sets), instance.forbidden)
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.network_steps + config.score_steps
    with one_thread(), Progress("max cover, network", steps) as progress:
        try:
            clock.check(SHARE)
            graph = make_graph(instance, clock, SHARE)
            network = pretrained()
            optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
            for _ in range(config.network_steps):
                _step(graph, network(graph), HOMOTOPY[0], optimizer, generator, config.samples, best)
                progress.update()
            with torch.no_grad():
                scores = network(graph)
            best.offer(scores + graph.fixed)
            scores.requires_grad_(True)
            optimizer = torch.optim.Adam([scores], lr=5e-2)
            for step in range(config.score_steps):
                stage = HOMOTOPY[step * len(HOMOTOPY) // config.score_steps]
                _step(graph, scores, stage, optimizer, generator, config.samples, best)
                progress.update()
            best.offer(scores.detach() + graph.fixed)
        except OutOfTime:
            pass  # the clock has noted it; the best so far stands
    return best.chosen


def _step(
    graph: Graph,
    scores: Tensor,
    stage: tuple[float, float],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    samples: int,
    best: _Best,
) -> None:
    tau, noise = stage
    perturbed = scores + noise * gumbel(len(scores), samples, generator) + graph.fixed
    # Before the loss, so that even a step that the clock cuts leaves a selection.
    best.offer(perturbed.detach())
    optimizer.zero_grad()
    uncovered(graph, perturbed, best.instance.budget, tau).backward()
    optimizer.step()


class _Best:
    """The best selection of exactly Z sets seen so far."""

    def __init__(self, instance: CoverInstance, clock: Clock, incumbent: Incumbent | None) -> None:
        self.instance, self.clock, self.incumbent = instance, clock, incumbent
        self.value = -1.0
        self.chosen = np.zeros(0, dtype=np.int64)

    def offer(self, scores: Tensor) -> None:
        """Round each column of scores to its Z highest sets."""
        for column in torch.topk(scores, self.instance.budget, dim=0).indices.T.numpy():
            value = self.instance.covered_value(column)
            if value > self.value:
                self.value, self.chosen = value, column.astype(np.int64)
                if self.incumbent is not None:
                    self.incumbent.offer(self.instance, self.chosen, "network", self.clock)
