"""An order of sets and objects that does not depend on how they are numbered.

Ties, draws and sums all follow the numbering; solved in this order, an instance gets the same cover whoever numbered
it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.instance import CoverInstance

ROUNDS = 3


def canonical(instance: CoverInstance) -> CoverInstance:
    """The same instance with sets and objects in an order that follows from its structure alone.

    Colour refinement (Weisfeiler and Leman): each side's hash takes in the sum of the hashes across its memberships,
    three times over. Sets of equal hash (copies of one another, but for freak cases) keep their order.

    Returns:
        the instance renumbered; `set_ids` still lead outside.
    """
    from scipy.sparse import csr_array

    n_sets, n_items = instance.n_sets, len(instance.values)
    ones = np.ones(len(instance.items), dtype=np.uint64)
    matrix = csr_array((ones, instance.items, instance.indptr), shape=(n_sets, n_items))
    transposed = csr_array((ones, *instance.by_item[::-1]), shape=(n_items, n_sets))
    roles = np.zeros(n_sets, dtype=np.uint64)
    roles[instance.forced], roles[instance.forbidden] = 1, 2
    items = _mixed(instance.values.view(np.uint64))
    sets = _mixed(roles)
    for _ in range(ROUNDS):
        sets = _mixed(sets + matrix @ items)
        items = _mixed(items + transposed @ sets)
    set_order, item_order = np.argsort(sets, kind="stable"), np.argsort(items, kind="stable")
    renumbered = csr_array((np.ones(len(instance.items)), instance.items, instance.indptr), shape=(n_sets, n_items))
    renumbered = renumbered[set_order]
    renumbered.indices = _inverse(item_order)[renumbered.indices]
    renumbered.has_sorted_indices = False
    renumbered.sort_indices()
    place = _inverse(set_order)
    return replace(
        instance,
        indptr=renumbered.indptr.astype(np.int64),
        items=renumbered.indices.astype(np.int32),
        values=instance.values[item_order],
        set_ids=instance.names(set_order),
        forced=np.sort(place[instance.forced]),
        forbidden=np.sort(place[instance.forbidden]),
    )


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well mixed numbers: their sums tell multisets apart."""
    from recsys_dagster.compiled import scramble

    mixed: NDArray[np.uint64] = scramble.py_func(x)
    return mixed


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.arange(len(order))
    return inverse
