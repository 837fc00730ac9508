"""Compiled loops over the places of soft memberships. numba is slow to import: import this inside functions only."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_dagster.compiled import compiled


@compiled
def support_rows(
    first: int, last: int, indptr: Any, neighbours: Any, weights: Any, degree: Any, labels: Any, expected: Any,
    kept_indptr: Any, kept_columns: Any, kept_values: Any, out: Any,
) -> None:  # fmt: skip
    """The places of items first..last-1: own label, then earlier memberships, then the strongest ties; see
    `choose_support`. `out` int32 [N, rho] is filled with rising columns, then -1.
    """
    rho = out.shape[1]
    tie = np.zeros(len(expected))
    rank = np.zeros(len(expected), np.int8)  # 0 unseen, 1 tied, 2 earlier, 3 own
    touched = np.empty(len(expected), np.int64)
    best, best_rank, best_strength = np.empty(rho, np.int64), np.empty(rho, np.int8), np.empty(rho)
    for item in range(first, last):
        n = 0
        for e in range(indptr[item], indptr[item + 1]):
            a = labels[neighbours[e]]
            if rank[a] == 0:
                rank[a] = 1
                touched[n] = a
                n += 1
            tie[a] += weights[e]
        for a in touched[:n]:
            tie[a] = tie[a] / degree[item] - expected[a]
        for e in range(kept_indptr[item], kept_indptr[item + 1]):
            a = kept_columns[e]
            if rank[a] == 0:
                touched[n] = a
                n += 1
            rank[a] = 2
            tie[a] = kept_values[e]
        if rank[labels[item]] == 0:
            touched[n] = labels[item]
            n += 1
        rank[labels[item]] = 3
        m = 0
        for a in touched[:n]:
            place = m
            while place > 0:
                b = place - 1
                better = rank[a] > best_rank[b] or (
                    rank[a] == best_rank[b]
                    and (tie[a] > best_strength[b] or (tie[a] == best_strength[b] and a < best[b]))
                )
                if not better:
                    break
                place -= 1
            if place < rho:
                for b in range(min(m, rho - 1), place, -1):
                    best[b], best_rank[b], best_strength[b] = best[b - 1], best_rank[b - 1], best_strength[b - 1]
                best[place], best_rank[place], best_strength[place] = a, rank[a], tie[a]
                m = min(m + 1, rho)
        for a in touched[:n]:
            tie[a] = 0.0
            rank[a] = 0
        chosen = np.sort(best[:m])
        for s in range(m):
            out[item, s] = chosen[s]


@compiled
def _gather(begin: int, end: int, neighbours: Any, weights: Any, places: Any, sizes: Any, p: Any, pull: Any) -> None:
    """Add ``w_ij p_j`` of the edges begin..end-1 to `pull` [C]; what nobody asked for is left there as rubbish, and
    whoever wants an entry sets it to 0 before.
    """
    for e in range(begin, end):
        j, w = neighbours[e], weights[e]
        for s in range(sizes[j]):
            pull[places[j, s]] += w * p[j, s]


@compiled
def pull_rows(
    first: int, last: int, indptr: Any, neighbours: Any, weights: Any, places: Any, sizes: Any, p: Any,
    n_prototypes: int, out: Any,
) -> None:  # fmt: skip
    """``(A P)_ia`` at the support of items first..last-1, by gathering the rows of P of each item's neighbours.

    Of each row of `places` int32 [N, rho] and `p` [N, rho] the first `sizes` [N] are in use; `out` is 0 elsewhere.
    """
    pull = np.zeros(n_prototypes)
    for item in range(first, last):
        for s in range(sizes[item]):
            pull[places[item, s]] = 0.0
        _gather(indptr[item], indptr[item + 1], neighbours, weights, places, sizes, p, pull)
        for s in range(places.shape[1]):
            out[item, s] = pull[places[item, s]] if s < sizes[item] else 0.0


@compiled
def reorder_rows(
    first: int, last: int, indptr: Any, neighbours: Any, weights: Any, order: Any, place: Any, new_indptr: Any,
    new_neighbours: Any, new_weights: Any,
) -> None:  # fmt: skip
    """Rows first..last-1 of a symmetric matrix whose row i was row ``order[i]``; ``place[order[i]]`` is i."""
    for row in range(first, last):
        start = indptr[order[row]]
        for k in range(new_indptr[row + 1] - new_indptr[row]):
            new_neighbours[new_indptr[row] + k] = place[neighbours[start + k]]
            new_weights[new_indptr[row] + k] = weights[start + k]


@compiled
def _best_row(field: Any, row: Any, n: int, self_weight: float, temperature: float) -> None:
    """Maximise ``field . p - self_weight |p|^2 / 2 + T H(p)`` over the simplex of n entries, from `row` into `row`.

    At T = 0 that is the Euclidean projection of field / self_weight on the simplex; above, the p that solves
    ``p = softmax((field - self_weight p) / T)``, by damped iteration: the slopes of that map lie between
    -self_weight / (2 T) and 0, so the damping below makes it a contraction.
    """
    if temperature == 0.0:
        order = np.argsort(-field[:n])
        threshold, running = 0.0, 0.0
        for rank in range(n):
            running += field[order[rank]]
            level = (running - self_weight) / (rank + 1)
            if field[order[rank]] <= level:
                break
            threshold = level
        if self_weight <= 0.0:  # an item without weight: nothing pulls it apart
            for a in range(n):
                row[a] = 0.0
            row[order[0]] = 1.0
            return
        total = 0.0
        for a in range(n):
            row[a] = max((field[a] - threshold) / self_weight, 0.0)
            total += row[a]
        for a in range(n):
            row[a] /= total
        return
    damping = 1.0 / (1.0 + self_weight / (4.0 * temperature))
    target = np.empty(n)
    for _ in range(100):
        largest = -np.inf
        for a in range(n):
            target[a] = (field[a] - self_weight * row[a]) / temperature
            largest = max(largest, target[a])
        total = 0.0
        for a in range(n):
            target[a] = np.exp(target[a] - largest)
            total += target[a]
        change = 0.0
        for a in range(n):
            step = damping * (target[a] / total - row[a])
            row[a] += step
            change += abs(step)
        if change < 1e-9 or self_weight < 1e-4 * temperature:
            break


@compiled
def ascend(
    indptr: Any, neighbours: Any, weights: Any, degree: Any, places: Any, sizes: Any, p: Any, mass: Any, gamma: float,
    total: float, temperature: float, weight: Any, log_last: Any, stale: Any, noticed: float,
) -> float:  # fmt: skip
    """One sweep of exact coordinate ascent: every stale item in turn takes the row that maximises J given all others.

    `weight` [N] and `log_last` [N, rho] are those of `Inertia`: the best row of an item that is held is that of a free
    one with field ``(field + T weight log_last) / (1 + weight)`` and ``1 / (1 + weight)`` of its self weight.

    `p` [N, rho] and `mass` [C] (P^T k) are changed in place. An item whose row changes by `noticed` or more in L1 makes
    its neighbours `stale`. Returns the share of all degree that moved.
    """
    n_items, rho = places.shape
    pull = np.zeros(len(mass))
    field, row = np.empty(rho), np.empty(rho)
    moved = 0.0
    for item in range(n_items):
        k = degree[item]
        if k == 0.0 or not stale[item]:
            continue
        stale[item] = False
        n = sizes[item]
        for s in range(n):
            pull[places[item, s]] = 0.0
        _gather(indptr[item], indptr[item + 1], neighbours, weights, places, sizes, p, pull)
        held = 1.0 + weight[item]
        own = gamma * k / (total * held)
        for s in range(n):
            a = places[item, s]
            # Without the item's own part of the mass, which `_best_row` lets vary.
            field[s] = pull[a] / k - gamma * (mass[a] - k * p[item, s]) / total
            field[s] = (field[s] + temperature * weight[item] * log_last[item, s]) / held
            row[s] = p[item, s]
        _best_row(field, row, n, own, temperature)
        change = 0.0
        for s in range(n):
            step = row[s] - p[item, s]
            change += abs(step)
            mass[places[item, s]] += k * step
            p[item, s] = row[s]
        moved += k * change
        if change >= noticed:
            for e in range(indptr[item], indptr[item + 1]):
                stale[neighbours[e]] = True
    return moved / (2.0 * total)
