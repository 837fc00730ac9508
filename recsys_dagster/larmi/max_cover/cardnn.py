"""The neural max-cover solver of LARMI's appendix A.2 (after Wang et al., 2022), with an exact cardinality constraint.

A three-layer GraphSAGE over the bipartite graph of sets and objects scores the sets; Gumbel-perturbed copies of the
scores are turned into fractional selections of exactly Z sets; the covered value of these is maximised by gradient
ascent on this very instance, first over the weights of the network, then over the scores themselves, while temperature
and noise fall (homotopy). The best rounded selection met on the way is kept.

The original turns scores into selections with many Sinkhorn rounds of an optimal-transport problem between P scores
and two anchors ("chosen", "not chosen"). With two columns the dual is one scalar nu: x_i = sigmoid((s_i - nu) / tau)
with nu such that sum x = Z. It is found here to machine precision in a few Newton steps and differentiated implicitly.

This module imports torch at the top; import it inside functions only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from recsys_dagster.larmi.max_cover.instance import CoverInstance, MaxCoverConfig
from recsys_dagster.progress import Progress

HOMOTOPY = ((0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.05, 0.05))
"""Stages (tau, scale of the Gumbel noise) for scores of standard deviation 1; each takes an equal part of the steps."""


class _Cardinality(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, budget: float, tau: float) -> Tensor:
        chosen = torch.sigmoid((scores - dual(scores, budget, tau)) / tau)
        ctx.save_for_backward(chosen)
        ctx.tau = tau
        return chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # sum_i x_i = Z fixes nu, so d nu / d s_i = h_i / sum(h) with h = x (1 - x), the slope of the sigmoid times tau.
        (chosen,) = ctx.saved_tensors
        slope = chosen * (1 - chosen)
        mean = (slope * grad).sum(0, keepdim=True) / slope.sum(0, keepdim=True).clamp_min(1e-30)
        return slope * (grad - mean) / ctx.tau, None, None


def dual(scores: Tensor, budget: float, tau: float, iterations: int = 100) -> Tensor:
    """The scalar nu of each column with sum_i sigmoid((s_i - nu) / tau) = budget.

    Newton's method, with bisection wherever a step would leave the bracket; the bracket is exact, since nu is known in
    closed form when all scores are equal, and the sum grows with every score.

    Args:
        scores: [P, samples].
        budget: 0 < Z < P.
        tau: temperature, > 0.
        iterations: upper bound; about ten are used.

    Returns:
        [1, samples], in the dtype of the scores (computed in float64).
    """
    values = scores.detach().double()
    shift = tau * float(np.log(budget / (values.shape[0] - budget)))
    low, high = values.amin(0, keepdim=True) - shift, values.amax(0, keepdim=True) - shift
    # The Z-th largest score is where a cold sigmoid has its step.
    nu = values.kthvalue(values.shape[0] - round(budget) + 1, dim=0, keepdim=True).values.clamp(low, high)
    for _ in range(iterations):
        chosen = torch.sigmoid((values - nu) / tau)
        excess = chosen.sum(0, keepdim=True) - budget
        if float(excess.abs().max()) <= 1e-10 * values.shape[0]:
            break
        low, high = torch.where(excess > 0, nu, low), torch.where(excess > 0, high, nu)
        slope = (chosen * (1 - chosen)).sum(0, keepdim=True) / tau
        step = nu + excess / slope.clamp_min(1e-300)
        nu = torch.where((step > low) & (step < high), step, (low + high) / 2)
    return nu.to(scores.dtype)


def select_softly(scores: Tensor, budget: float, tau: float) -> Tensor:
    """Fractional selections that sum to exactly `budget` in each column: x_i = sigmoid((s_i - nu) / tau).

    This is the limit of Sinkhorn's rounds for the entropic optimal transport between the scores and the two anchors
    with cost -s_i for "chosen" and 0 for "not chosen". The gradient is that of the implicit function theorem.

    Args:
        scores: [P, samples].
        budget: 0 < Z < P.
        tau: temperature, > 0.

    Returns:
        [P, samples] in [0, 1].
    """
    return _Cardinality.apply(scores, budget, tau)


class _SparseProduct(torch.autograd.Function):
    """matrix @ dense, with the transposed matrix at hand for the gradient: torch would transpose anew every time."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad.contiguous(), None, None


@dataclass(frozen=True)
class _Graph:
    """The bipartite graph: each matrix with its transpose, and the features of both sides."""

    to_items: tuple[Tensor, Tensor]  # A^T [Q, P] and A
    items_from_sets: tuple[Tensor, Tensor]  # A^T with rows of mean 1, and its transpose
    sets_from_items: tuple[Tensor, Tensor]
    set_features: Tensor  # [P, 3]
    item_features: Tensor  # [Q, 2]
    values: Tensor  # [Q, 1], as shares of the total


class _MeanSage(SAGEConv):
    """PyG's GraphSAGE convolution whose mean over neighbours is a product with a row-normalised sparse matrix."""

    def forward(self, x: tuple[Tensor, Tensor], edges: tuple[Tensor, Tensor]) -> Tensor:
        self._transposed = edges[1]
        return super().forward(x, edges[0])

    def message_and_aggregate(self, adj_t: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        return _SparseProduct.apply(x[0], adj_t, self._transposed)


class CoverNetwork(nn.Module):
    """Three layers of bipartite GraphSAGE and a linear head: one score for each set."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        widths = [(3, 2), (hidden, hidden), (hidden, hidden)]
        self.to_items = nn.ModuleList([_MeanSage((sets, items), hidden) for sets, items in widths])
        self.to_sets = nn.ModuleList([_MeanSage((hidden, sets), hidden) for sets, _ in widths])
        self.head = nn.Linear(hidden, 1)

    def forward(self, graph: _Graph) -> Tensor:
        """Scores [P, 1] of mean 0 and standard deviation 1, so that one schedule of tau suits every instance."""
        sets, items = graph.set_features, graph.item_features
        for to_items, to_sets in zip(self.to_items, self.to_sets, strict=True):
            items = torch.relu(to_items((sets, items), graph.items_from_sets))
            sets = torch.relu(to_sets((items, sets), graph.sets_from_items))
        return _standardise(self.head(sets))


def solve_cardnn(instance: CoverInstance, config: MaxCoverConfig) -> NDArray[np.int64]:
    """Choose `budget` sets with the neural solver, without local search.

    Args:
        instance: sets, values and budget.
        config: steps, samples, width, seed.

    Returns:
        int64 [budget]: indices in order of score.
    """
    if instance.budget >= instance.n_sets:
        return np.arange(instance.n_sets, dtype=np.int64)
    generator = torch.Generator().manual_seed(config.seed)
    graph = _graph(instance)
    best = _Best(instance)
    with (
        torch.random.fork_rng(devices=[]),
        Progress("max cover", config.network_steps + config.score_steps) as progress,
    ):
        torch.manual_seed(config.seed)
        network = CoverNetwork(config.hidden)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(config.network_steps):
            _step(graph, network(graph), instance.budget, HOMOTOPY[0], optimizer, generator, config.samples, best)
            progress.update()
        with torch.no_grad():
            scores = network(graph)
        best.offer(scores)
        scores.requires_grad_(True)
        optimizer = torch.optim.Adam([scores], lr=5e-2)
        for step in range(config.score_steps):
            stage = HOMOTOPY[step * len(HOMOTOPY) // config.score_steps]
            _step(graph, scores, instance.budget, stage, optimizer, generator, config.samples, best)
            progress.update()
        best.offer(scores.detach())
    return best.chosen


def _step(
    graph: _Graph,
    scores: Tensor,
    budget: int,
    stage: tuple[float, float],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    samples: int,
    best: _Best,
) -> None:
    tau, noise = stage
    uniform = torch.rand((scores.shape[0], samples), generator=generator).clamp(1e-10, 1 - 1e-7)
    perturbed = scores - noise * torch.log(-torch.log(uniform))
    covered = soft_coverage(select_softly(perturbed, budget, tau), graph.to_items)
    loss = -(graph.values * covered).sum() / samples
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    best.offer(perturbed.detach())


def soft_coverage(chosen: Tensor, to_items: tuple[Tensor, Tensor]) -> Tensor:
    """min(1, sum_i x_i A_ij) for every object and sample: the relaxed indicator of Eq. 16.

    Args:
        chosen: [P, samples] in [0, 1].
        to_items: A^T [Q, P] and A as sparse CSR.

    Returns:
        [Q, samples] in [0, 1].
    """
    return _SparseProduct.apply(chosen, *to_items).clamp(max=1.0)


class _Best:
    """The best selection of exactly Z sets seen so far."""

    def __init__(self, instance: CoverInstance) -> None:
        self.instance = instance
        self.value = -1.0
        self.chosen = np.arange(instance.budget, dtype=np.int64)

    def offer(self, scores: Tensor) -> None:
        """Round each column of scores to its Z highest sets."""
        for column in torch.topk(scores, self.instance.budget, dim=0).indices.T.numpy():
            value = self.instance.covered_value(column)
            if value > self.value:
                self.value, self.chosen = value, column.astype(np.int64)


def _graph(instance: CoverInstance) -> _Graph:
    matrix = instance.matrix()
    transposed = matrix.T.tocsr()
    sizes, degrees = np.diff(matrix.indptr), np.diff(transposed.indptr)
    by_size, by_degree = 1 / np.maximum(sizes, 1), 1 / np.maximum(degrees, 1)
    rarity = matrix @ by_degree
    shares = instance.values / max(float(instance.values.sum()), 1e-300)
    set_features = np.stack([np.log1p(sizes), matrix @ shares, np.log(np.maximum(rarity, 1e-12))], axis=1)
    item_features = np.stack([np.log1p(degrees), instance.values], axis=1)
    a, a_transposed = _csr(matrix), _csr(transposed)
    return _Graph(
        to_items=(a_transposed, a),
        items_from_sets=(
            _csr(transposed, np.repeat(by_degree, degrees)),
            _csr(matrix, by_degree[matrix.indices]),
        ),
        sets_from_items=(
            _csr(matrix, np.repeat(by_size, sizes)),
            _csr(transposed, by_size[transposed.indices]),
        ),
        set_features=_standardise(torch.from_numpy(set_features).float()),
        item_features=_standardise(torch.from_numpy(item_features).float()),
        values=torch.from_numpy(shares).float()[:, None],
    )


def _csr(matrix: Any, data: NDArray[np.float64] | None = None) -> Tensor:
    values = matrix.data if data is None else data
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state" says nothing that a reader of the log can act on.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(values.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )


def _standardise(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(0, keepdim=True)
    return centred / (centred.pow(2).mean(0, keepdim=True) + 1e-12).sqrt()
