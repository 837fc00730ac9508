"""The co-engagement graph as a matrix: checked, symmetric, and described."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError

SHOWN = 100_000
"""Weights of a part that its histogram is drawn from."""


def adjacency(graph: pd.DataFrame, n_items: int) -> sparse.csr_array:
    """The symmetric weighted adjacency matrix A of a graph table, checked.

    Args:
        graph: source, target, weight, each undirected edge once, in any order.
        n_items: number N of items.

    Returns:
        float64 CSR [N, N]; its row sums are the degrees k, its total is |E| in the duplicate convention of Eq. 3.

    Raises:
        RecsysError: no edges, an end outside 0..N-1, a self-loop, a duplicate, or a weight that is not finite and > 0.
    """
    from recsys_dagster.g2rec.pair_kernels import symmetric  # numba is slow to import: not while definitions load

    mend = "rebuild coengagement_graph from the train split."
    source = graph["source"].to_numpy(dtype=np.int64)
    target = graph["target"].to_numpy(dtype=np.int64)
    weight = graph["weight"].to_numpy(dtype=np.float64)
    if len(source) == 0:
        raise RecsysError("The co-engagement graph has no edges.", mend=mend)
    faults = (
        (
            "an item id outside the catalogue",
            (np.minimum(source, target) < 0) | (np.maximum(source, target) >= n_items),
        ),
        ("a self-loop", source == target),
        ("a weight that is not a finite number above 0", ~(np.isfinite(weight) & (weight > 0))),
    )
    for fault, rows in faults:
        if rows.any():
            row = int(np.argmax(rows))
            raise RecsysError(
                f"Row {row} of the co-engagement graph ({source[row]}, {target[row]}, {weight[row]}) has {fault}; "
                f"the catalogue has {n_items} items.",
                mend=mend,
            )
    source, target = np.minimum(source, target), np.maximum(source, target)
    keys = source * n_items + target
    if not (np.diff(keys) > 0).all():
        order = np.argsort(keys, kind="stable")
        if repeats := int((np.diff(keys[order]) == 0).sum()):
            raise RecsysError(f"The co-engagement graph repeats {repeats} of its {len(source)} edges.", mend=mend)
        source, target, weight = source[order], target[order], weight[order]
    indptr, columns, values = symmetric(source, target, weight, n_items)
    return sparse.csr_array((values, columns, indptr), shape=(n_items, n_items))


@dataclass(frozen=True)
class GraphFigures:
    """Numbers and distributions that say whether a graph is sound; those of parts add up.

    Attributes:
        edges: how many.
        degree: float64 [N], sum of the weights of an item's edges.
        neighbours: int64 [N], how many it has.
        weights: float32, the weights of at most `SHOWN` edges of each part, at even distances.
    """

    edges: int
    degree: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def none(cls, n_items: int) -> GraphFigures:
        """Of a graph without edges."""
        return cls(0, np.zeros(n_items), np.zeros(n_items, dtype=np.int64), np.zeros(0, dtype=np.float32))

    @classmethod
    def of(cls, graph: pd.DataFrame, n_items: int) -> GraphFigures:
        """Of a graph table or a part of it."""
        degree, neighbours = np.zeros(n_items), np.zeros(n_items, dtype=np.int64)
        weights = graph["weight"].to_numpy()
        for end in ("source", "target"):
            ids = graph[end].to_numpy()
            degree += np.bincount(ids, weights=weights, minlength=n_items)
            neighbours += np.bincount(ids, minlength=n_items)
        return cls(len(graph), degree, neighbours, weights[:: len(weights) // SHOWN + 1].copy())

    def __add__(self, other: GraphFigures) -> GraphFigures:
        return GraphFigures(
            self.edges + other.edges, self.degree + other.degree, self.neighbours + other.neighbours,
            np.concatenate([self.weights, other.weights]),
        )  # fmt: skip

    def statistics(self) -> dict[str, float]:
        """Edges, weight, degrees, isolated items."""
        return {
            "edges": float(self.edges),
            "total_weight": float(self.degree.sum() / 2),
            "mean_degree": float(self.degree.mean()),
            "max_degree": float(self.degree.max()),
            "mean_neighbours": float(self.neighbours.mean()),
            "isolated_items": float((self.neighbours == 0).sum()),
        }
