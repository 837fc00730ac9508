"""The co-engagement graph as a matrix: checked, symmetric, and described."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from recsys_dagster.errors import RecsysError


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


def graph_statistics(graph: pd.DataFrame, n_items: int) -> dict[str, float]:
    """Numbers that say whether a graph is sound: edges, weight, degrees, isolated items."""
    degree = np.zeros(n_items)
    neighbours = np.zeros(n_items, dtype=np.int64)
    for end in ("source", "target"):
        ids = graph[end].to_numpy()
        degree += np.bincount(ids, weights=graph["weight"].to_numpy(), minlength=n_items)
        neighbours += np.bincount(ids, minlength=n_items)
    return {
        "edges": float(len(graph)),
        "total_weight": float(graph["weight"].astype(np.float64).sum()),
        "mean_degree": float(degree.mean()),
        "max_degree": float(degree.max()),
        "mean_neighbours": float(neighbours.mean()),
        "isolated_items": float((neighbours == 0).sum()),
    }
