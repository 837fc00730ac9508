"""Leiden in compiled loops on a CSR matrix (Traag, Waltman and van Eck 2019).

Import this module inside functions only: numba is slow to import.

All functions maximise ``sum over clusters of (weight inside - scale * mass^2)`` with ``scale = gamma / |E|`` and masses
equal to degrees: modularity times |E|. Graphs are symmetric CSR matrices without a diagonal; aggregated nodes carry
their mass, and the weight inside them is a constant that no move changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_dagster.compiled import compiled, uniform
from recsys_dagster.g2rec.pair_kernels import group_by_item


@compiled
def _shuffled(n: int, seed: int, number: int) -> Any:
    """A random order of n nodes that depends on its arguments alone."""
    order = np.arange(n)
    for last in range(n - 1, 0, -1):
        other = min(int(uniform(seed, number, last) * (last + 1)), last)
        order[last], order[other] = order[other], order[last]
    return order


@compiled
def _local_moves(indptr: Any, ends: Any, weights: Any, mass: Any, scale: float, labels: Any, order: Any) -> int:
    """Move nodes to their best cluster until none gains (the fast local move); labels < nodes change in place.

    Returns the number of moves.
    """
    n = len(mass)
    total, size = np.zeros(n), np.zeros(n, np.int64)
    for node in range(n):
        total[labels[node]] += mass[node]
        size[labels[node]] += 1
    empty = np.empty(n, np.int64)
    n_empty = 0
    for cluster in range(n - 1, -1, -1):
        if size[cluster] == 0:
            empty[n_empty] = cluster
            n_empty += 1
    queue = order.copy()
    waiting = np.ones(n, np.bool_)
    head, length, moves = 0, n, 0
    tie, near = np.zeros(n), np.empty(n, np.int64)
    while length > 0:
        node = queue[head]
        head = head + 1 if head + 1 < n else 0
        length -= 1
        waiting[node] = False
        old, found = labels[node], 0
        for e in range(indptr[node], indptr[node + 1]):
            cluster = labels[ends[e]]
            if tie[cluster] == 0.0:
                near[found] = cluster
                found += 1
            tie[cluster] += weights[e]
        total[old] -= mass[node]
        size[old] -= 1
        expected = scale * mass[node]
        best, best_gain = old, tie[old] - expected * total[old]
        threshold = 1e-12 * (1.0 + abs(best_gain))
        for k in range(found):
            cluster = near[k]
            gain = tie[cluster] - expected * total[cluster]
            if gain > best_gain + threshold:
                best, best_gain = cluster, gain
        if best_gain < -threshold and size[old] > 0:
            n_empty -= 1
            best = empty[n_empty]
        for k in range(found):
            tie[near[k]] = 0.0
        total[best] += mass[node]
        size[best] += 1
        if best == old:
            continue
        if size[old] == 0:
            empty[n_empty] = old
            n_empty += 1
        labels[node] = best
        moves += 1
        for e in range(indptr[node], indptr[node + 1]):
            other = ends[e]
            if not waiting[other] and labels[other] != best:
                waiting[other] = True
                place = head + length
                queue[place if place < n else place - n] = other
                length += 1
    return moves


@compiled
def _refined(indptr: Any, ends: Any, weights: Any, mass: Any, scale: float, labels: Any, order: Any) -> Any:
    """Split every cluster into well-connected parts: nodes that are still alone join the part that gains most.

    Returns labels below the number of nodes. Only nodes and parts that are well connected to the rest of their cluster
    take part, as in the paper; of all parts with a gain the best is taken (its randomness going to 0).
    """
    n = len(mass)
    part = np.arange(n)
    part_mass, outside, alone = mass.copy(), np.zeros(n), np.ones(n, np.bool_)
    total = np.zeros(n)
    for node in range(n):
        total[labels[node]] += mass[node]
        for e in range(indptr[node], indptr[node + 1]):
            if labels[ends[e]] == labels[node]:
                outside[node] += weights[e]  # of the part, to the rest of its cluster
    tie, near = np.zeros(n), np.empty(n, np.int64)
    for node in order:
        rest = total[labels[node]]
        own = outside[node]
        if not alone[node] or own < scale * mass[node] * (rest - mass[node]):
            continue
        found = 0
        for e in range(indptr[node], indptr[node + 1]):
            other = ends[e]
            if labels[other] == labels[node]:
                if tie[part[other]] == 0.0:
                    near[found] = part[other]
                    found += 1
                tie[part[other]] += weights[e]
        best, best_gain = node, 0.0
        for k in range(found):
            into = near[k]
            if outside[into] >= scale * part_mass[into] * (rest - part_mass[into]):
                gain = tie[into] - scale * mass[node] * part_mass[into]
                if gain > best_gain:
                    best, best_gain = into, gain
        if best != node:
            part[node] = best
            alone[node] = False
            alone[best] = False
            part_mass[best] += mass[node]
            outside[best] += own - 2.0 * tie[best]
        for k in range(found):
            tie[near[k]] = 0.0
    return part


@compiled
def _dense(labels: Any) -> int:
    """Number labels from 0 in order of appearance, in place; returns how many there are."""
    number = np.full(len(labels), -1, np.int64)
    n = 0
    for node in range(len(labels)):
        if number[labels[node]] < 0:
            number[labels[node]] = n
            n += 1
        labels[node] = number[labels[node]]
    return n


@compiled
def aggregated(indptr: Any, ends: Any, weights: Any, mass: Any, part: Any, n_parts: int) -> Any:
    """One node a part: indptr, ends, weights, mass. Weight inside a part is left out."""
    starts, members = group_by_item(part, n_parts)
    new_mass = np.zeros(n_parts)
    for node in range(len(mass)):
        new_mass[part[node]] += mass[node]
    new_indptr = np.zeros(n_parts + 1, np.int64)
    new_ends, new_weights = np.empty(len(ends), ends.dtype), np.empty(len(ends))
    tie, near, out = np.zeros(n_parts), np.empty(n_parts, np.int64), 0
    for k in range(n_parts):
        found = 0
        for m in range(starts[k], starts[k + 1]):
            node = members[m]
            for e in range(indptr[node], indptr[node + 1]):
                other = part[ends[e]]
                if other != k:
                    if tie[other] == 0.0:
                        near[found] = other
                        found += 1
                    tie[other] += weights[e]
        for m in range(found):
            new_ends[out] = near[m]
            new_weights[out] = tie[near[m]]
            tie[near[m]] = 0.0
            out += 1
        new_indptr[k + 1] = out
    return new_indptr, new_ends[:out].copy(), new_weights[:out].copy(), new_mass


@compiled
def _quality(indptr: Any, ends: Any, weights: Any, mass: Any, scale: float, labels: Any) -> float:
    total, inside = np.zeros(len(mass)), 0.0
    for node in range(len(mass)):
        total[labels[node]] += mass[node]
        for e in range(indptr[node], indptr[node + 1]):
            if labels[ends[e]] == labels[node]:
                inside += weights[e]
    return inside - scale * (total * total).sum()


@compiled
def leiden(
    indptr: Any,
    ends: Any,
    weights: Any,
    mass: Any,
    scale: float,
    start: Any,
    iterations: int,
    tolerance: float,
    seed: int,
) -> Any:
    """Labels [nodes] from a start [nodes] below the number of nodes.

    An iteration moves nodes, refines, aggregates, and goes on so with the smaller graph until nothing moves there.
    Stops after `iterations` (-1: never), or when one raises the objective by less than `tolerance`.
    """
    orders = 0
    labels = start.copy()
    quality, done = -np.inf, 0
    while iterations < 0 or done < iterations:
        done += 1
        node = np.arange(len(mass))  # the aggregated node of each item
        a_indptr, a_ends, a_weights, a_mass, a_labels = indptr, ends, weights, mass, labels.copy()
        while True:
            orders += 1
            order = _shuffled(len(a_mass), seed, orders)
            _local_moves(a_indptr, a_ends, a_weights, a_mass, scale, a_labels, order)
            clusters = a_labels.copy()
            if _dense(clusters) == len(a_mass):
                break
            orders += 1
            order = _shuffled(len(a_mass), seed, orders)
            part = _refined(a_indptr, a_ends, a_weights, a_mass, scale, a_labels, order)
            n_parts = _dense(part)
            if n_parts == len(a_mass):  # nothing to refine: the clusters themselves are the next nodes
                part = clusters.copy()
                n_parts = _dense(part)
            coarse = np.empty(n_parts, np.int64)
            for k in range(len(part)):
                coarse[part[k]] = clusters[k]
            a_indptr, a_ends, a_weights, a_mass = aggregated(a_indptr, a_ends, a_weights, a_mass, part, n_parts)
            _dense(coarse)
            a_labels = coarse
            for item in range(len(node)):
                node[item] = part[node[item]]
        for item in range(len(node)):
            labels[item] = a_labels[node[item]]
        _dense(labels)
        reached = _quality(indptr, ends, weights, mass, scale, labels)
        if reached - quality < tolerance:
            break
        quality = reached
    return labels
