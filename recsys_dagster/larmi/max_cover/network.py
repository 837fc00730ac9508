"""CardNN's network: three layers of bipartite GraphSAGE over sets and objects, one score a set.

This module imports torch at the top; import it inside functions only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from recsys_dagster.larmi.max_cover.clock import Clock
from recsys_dagster.larmi.max_cover.dual import select_softly
from recsys_dagster.larmi.max_cover.instance import CoverInstance

WEIGHTS = Path(__file__).with_name("cardnn.safetensors")
"""Shipped weights; ``python -m recsys_dagster.larmi.max_cover.pretrain`` makes them."""

HIDDEN = 16

HOMOTOPY = ((0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.05, 0.05))
"""Stages (tau, scale of the Gumbel noise) for scores of standard deviation 1; each takes an equal part of the steps."""


class SparseProduct(torch.autograd.Function):
    """matrix @ dense, with the transposed matrix at hand for the gradient: torch would transpose anew every time.

    A step of the solver is a few dozen of these and little else, so here the clock is looked at (`clock` may raise
    OutOfTime, in the backward pass as well): no limit is overrun by more than one product.
    """

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transposed: Tensor, clock: Any = None) -> Tensor:
        """The product."""
        ctx.transposed, ctx.clock = transposed, clock
        if clock is not None:
            clock()
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The product with the transpose."""
        if ctx.clock is not None:
            ctx.clock()
        return ctx.transposed @ grad.contiguous(), None, None, None


@dataclass(frozen=True)
class Graph:
    """The bipartite graph: each matrix with its transpose, and the features of both sides."""

    to_items: tuple[Tensor, Tensor]  # A^T [Q, P] and A
    items_from_sets: tuple[Tensor, Tensor]  # A^T with rows of mean 1, and its transpose
    sets_from_items: tuple[Tensor, Tensor]
    set_features: Tensor  # [P, 3]: size, value, rarity of the objects
    item_features: Tensor  # [Q, 2]: degree, value
    values: Tensor  # [Q, 1], as shares of the total
    fixed: Tensor  # [P, 1]: added to the scores; large for forced sets, very small for forbidden ones
    clock: Any = None


class _MeanSage(SAGEConv):
    """PyG's GraphSAGE convolution whose mean over neighbours is a product with a row-normalised sparse matrix."""

    def forward(self, x: tuple[Tensor, Tensor], edges: tuple[Tensor, Tensor], clock: Any) -> Tensor:
        self._transposed, self._clock = edges[1], clock
        return super().forward(x, edges[0])

    def message_and_aggregate(self, adj_t: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        return SparseProduct.apply(x[0], adj_t, self._transposed, self._clock)


class CoverNetwork(nn.Module):
    """Three layers of bipartite GraphSAGE and a linear head: one score for each set."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        widths = [(3, 2), (hidden, hidden), (hidden, hidden)]
        self.to_items = nn.ModuleList([_MeanSage((sets, items), hidden) for sets, items in widths])
        self.to_sets = nn.ModuleList([_MeanSage((hidden, sets), hidden) for sets, _ in widths])
        self.head = nn.Linear(hidden, 1)

    def forward(self, graph: Graph) -> Tensor:
        """Scores [P, 1] of mean 0 and standard deviation 1, so that one schedule of tau suits every instance."""
        sets, items = graph.set_features, graph.item_features
        for to_items, to_sets in zip(self.to_items, self.to_sets, strict=True):
            items = torch.relu(to_items((sets, items), graph.items_from_sets, graph.clock))
            sets = torch.relu(to_sets((items, sets), graph.sets_from_items, graph.clock))
        return _standardise(self.head(sets))


def pretrained() -> CoverNetwork:
    """The network with the shipped weights."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights of its own
        network = CoverNetwork()
    network.load_state_dict(load_file(WEIGHTS))
    return network


def soft_coverage(chosen: Tensor, to_items: tuple[Tensor, Tensor], clock: Any = None) -> Tensor:
    """min(1, sum_i x_i A_ij) for every object and sample: the relaxed indicator of Eq. 16.

    Args:
        chosen: [P, samples] in [0, 1].
        to_items: A^T [Q, P] and A as sparse CSR; nothing of size samples x P x Q is made.
        clock: called before each product.

    Returns:
        [Q, samples] in [0, 1].
    """
    return SparseProduct.apply(chosen, *to_items, clock).clamp(max=1.0)


def uncovered(graph: Graph, perturbed: Tensor, budget: int, tau: float) -> Tensor:
    """The loss: share of the value that the fractional selections of Z sets leave uncovered, mean over samples."""
    covered = soft_coverage(select_softly(perturbed, budget, tau), graph.to_items, graph.clock)
    return 1 - (graph.values * covered).sum() / perturbed.shape[1]


def gumbel(n_sets: int, samples: int, generator: torch.Generator) -> Tensor:
    """Gumbel noise [P, samples]."""
    uniform = torch.rand((n_sets, samples), generator=generator).clamp(1e-10, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def make_graph(instance: CoverInstance, clock: Clock | None = None, share: float = 1.0) -> Graph:
    """Tensors of an instance; with a clock, products raise OutOfTime once that share of its time is over."""
    matrix = instance.matrix()
    transposed = matrix.T.tocsr()
    sizes, degrees = np.diff(matrix.indptr), np.diff(transposed.indptr)
    by_size, by_degree = 1 / np.maximum(sizes, 1), 1 / np.maximum(degrees, 1)
    rarity = matrix @ by_degree
    shares = instance.values / max(instance.reachable(), 1e-300)
    set_features = np.stack([np.log1p(sizes), matrix @ shares, np.log(np.maximum(rarity, 1e-12))], axis=1)
    item_features = np.stack([np.log1p(degrees), instance.values], axis=1)
    fixed = np.zeros((instance.n_sets, 1), dtype=np.float32)
    fixed[instance.forced], fixed[instance.forbidden] = 1e3, -1e3
    a, a_transposed = _csr(matrix), _csr(transposed)
    return Graph(
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
        fixed=torch.from_numpy(fixed),
        clock=None if clock is None else lambda: clock.check(share),
    )


def _csr(matrix: Any, data: NDArray[np.float64] | None = None) -> Tensor:
    values = matrix.data if data is None else data
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state" says nothing that a reader of the log can act on.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(values.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )


def _standardise(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(0, keepdim=True)
    return centred / (centred.pow(2).mean(0, keepdim=True) + 1e-12).sqrt()
