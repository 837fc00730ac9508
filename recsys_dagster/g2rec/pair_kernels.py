"""Compiled loops over users' pairs and over edges. numba is slow to import: import this inside functions only.

The loops release the interpreter's lock; `parallel_rows` runs those over rows on threads. No result depends on the
number of threads: every row is computed by one thread, in one order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_dagster.compiled import compiled, uniform


@compiled
def newest_distinct(
    indptr: Any, items: Any, first: int, last: int, cap: int, n_items: int, out: Any, place: Any, counts: Any
) -> None:
    """The most recent `cap` distinct items of users first..last-1, sorted by item within a user.

    `out` (items) and `place` (where in `items` each stands last) are filled from ``indptr[user] - indptr[first]`` on;
    `counts` [users] says how far.
    """
    seen = np.full(n_items, -1, np.int64)
    for user in range(first, last):
        start, stop = indptr[user], indptr[user + 1]
        base, n = start - indptr[first], 0
        for source in range(stop - 1, start - 1, -1):
            item = items[source]
            if seen[item] != user:
                seen[item] = user
                if n == cap:
                    break
                out[base + n] = item
                place[base + n] = source
                n += 1
        order = np.argsort(out[base : base + n])
        out[base : base + n] = out[base : base + n][order]
        place[base : base + n] = place[base : base + n][order]
        counts[user - first] = n


@compiled
def group_by_item(items: Any, n_items: int) -> Any:
    """Counting sort: int64 [n_items + 1] row starts, and the places of each item in `items`, rising."""
    starts = np.zeros(n_items + 1, np.int64)
    for item in items:
        starts[item + 1] += 1
    for item in range(n_items):
        starts[item + 1] += starts[item]
    cursor = starts[:-1].copy()
    places = np.empty(len(items), np.int64)
    for place in range(len(items)):
        item = items[place]
        places[cursor[item]] = place
        cursor[item] += 1
    return starts, places


@compiled
def clique_costs(starts: Any, places: Any, ends: Any) -> Any:
    """Running sum [N + 1] of the number of pairs whose smaller item is item i."""
    cost = np.zeros(len(starts), np.int64)
    for item in range(len(starts) - 1):
        pairs = 0
        for entry in range(starts[item], starts[item + 1]):
            pairs += ends[places[entry]] - places[entry] - 1
        cost[item + 1] = cost[item] + pairs
    return cost


@compiled
def _add(total: Any, words: Any, summary: Any, column: int, weight: float) -> None:
    """Add to a row's sum at a column. `words` holds one bit for each column met, `summary` one for each word not 0."""
    # Most pairs are new to a row, but one never knows which: three writes cost less than a branch that is guessed.
    word = column >> 6
    summary[word >> 6] |= np.uint64(1) << np.uint64(word & 63)
    words[word] |= np.uint64(1) << np.uint64(column & 63)
    total[column] += weight


@compiled
def clique_rows(
    first: int,
    last: int,
    starts: Any,
    places: Any,
    ends: Any,
    items: Any,
    share: Any,
    decay: Any,
    cost: Any,
    columns: Any,
    values: Any,
    counts: Any,
) -> None:
    """Sum the cliques' pairs whose smaller item is in first..last-1, row by row (Gustavson's order, upper triangle).

    `items` holds the users' sorted distinct items one after the other; entry p belongs to the user whose items end
    before ``ends[p]``, and pairs with entry q with weight ``share[p] * decay[q]`` (an empty `decay` means 1).
    Row i is written to `columns` and `values` from ``cost[i]`` on, ``counts[i]`` entries in rising order of columns.
    """
    n_items = len(starts) - 1
    total = np.zeros(n_items)
    # The bits of the columns met (see `_add`): so rows come out in order without being sorted.
    words = np.zeros((n_items >> 6) + 1, np.uint64)
    summary = np.zeros((n_items >> 12) + 1, np.uint64)
    for row in range(first, last):
        for entry in range(starts[row], starts[row + 1]):
            p = places[entry]
            for q in range(p + 1, ends[p]):
                _add(total, words, summary, items[q], share[p] * decay[q] if len(decay) else share[p])
        counts[row] = _emptied(total, words, summary, row, cost[row], columns, values)


_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, np.int64)
for _bit in range(64):
    _PLACE[((1 << _bit) * 0x03F79D71B4CB0A89 % 2**64) >> 58] = _bit


@compiled
def _lowest(bits: Any) -> int:
    """Number of the lowest bit that is set, by a de Bruijn sequence."""
    lowest = bits & (~bits + np.uint64(1))
    return _PLACE[(lowest * _DE_BRUIJN) >> np.uint64(58)]


@compiled
def _emptied(total: Any, words: Any, summary: Any, row: int, base: int, columns: Any, values: Any) -> int:
    """Move a row's sums from the accumulator to `columns` and `values` from `base` on; returns how many there are."""
    n, one = base, np.uint64(1)
    for block in range(row >> 12, len(summary)):
        met = summary[block]
        summary[block] = 0
        while met != 0:
            word = (block << 6) + _lowest(met)
            met &= met - one
            bits = words[word]
            words[word] = 0
            while bits != 0:
                column = (word << 6) + _lowest(bits)
                bits &= bits - one
                columns[n] = column
                values[n] = total[column]
                total[column] = 0.0
                n += 1
    return n - base


@compiled
def compact_rows(
    first: int, last: int, cost: Any, counts: Any, columns: Any, values: Any, indptr: Any, packed: Any, sums: Any
) -> None:
    """Close the gaps that `clique_rows` and `sum_rows` leave, for rows first..last-1: from ``cost[row]`` to
    ``indptr[row]``.
    """
    for row in range(first, last):
        for k in range(counts[row]):
            packed[indptr[row] + k] = columns[cost[row] + k]
            sums[indptr[row] + k] = values[cost[row] + k]


@compiled
def sum_rows(
    first: int, last: int, starts: Any, places: Any, right: Any, weight: Any, columns: Any, values: Any, counts: Any,
    n_items: int,
) -> None:  # fmt: skip
    """Sum equal pairs among draws grouped by their smaller item; output as `clique_rows` leaves it."""
    total = np.zeros(n_items)
    words = np.zeros((n_items >> 6) + 1, np.uint64)
    summary = np.zeros((n_items >> 12) + 1, np.uint64)
    for row in range(first, last):
        for entry in range(starts[row], starts[row + 1]):
            _add(total, words, summary, right[places[entry]], weight[places[entry]])
        counts[row] = _emptied(total, words, summary, row, starts[row], columns, values)


@compiled
def components(indptr: Any, items: Any, n_items: int) -> Any:
    """int64 [n_items]: which items are linked through users, numbered from 0 (union by the smaller item)."""
    parent = np.arange(n_items)
    for user in range(len(indptr) - 1):
        for entry in range(indptr[user] + 1, indptr[user + 1]):
            a, b = items[indptr[user]], items[entry]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            parent[max(a, b)] = min(a, b)
    number, n = np.empty(n_items, np.int64), 0
    for item in range(n_items):
        root = item
        while parent[root] != root:
            root = parent[root]
        if root == item:
            number[item] = n
            n += 1
        else:
            number[item] = number[root]
    return number


@compiled
def draw_pairs(
    first: int, last: int, offsets: Any, items: Any, draws: Any, draw_offsets: Any, share: Any, decay: Any,
    first_end: Any, users: Any, seed: int, left: Any, right: Any, weight: Any,
) -> None:  # fmt: skip
    """Draw m pairs of each sampled user with replacement, each weighed by its weight over m times its probability.

    One end is drawn in proportion to `first_end` q, the other uniformly from the rest, so that a pair comes with
    probability ``(q_i + q_j) / (Q (N - 1))``, where Q is the sum of q; without q (empty) all pairs are alike. A pair
    weighs ``share * decay_i * decay_j`` (1 where `decay` is empty).
    """
    for k in range(first, last):
        start, n = offsets[k], offsets[k + 1] - offsets[k]
        m, user = draws[k], users[k]
        running = np.zeros(n + 1)
        for a in range(n if len(first_end) else 0):
            running[a + 1] = running[a] + first_end[start + a]
        for draw in range(m):
            u = uniform(seed, user, 2 * draw)
            v = uniform(seed, user, 2 * draw + 1)
            if len(first_end):
                i = min(np.searchsorted(running, u * running[n], side="right") - 1, n - 1)
            else:
                i = min(int(u * n), n - 1)
            j = min(int(v * (n - 1)), n - 2)
            if j >= i:
                j += 1
            out = draw_offsets[k] + draw
            left[out] = items[start + min(i, j)]
            right[out] = items[start + max(i, j)]
            probability = 2.0 / (n * (n - 1.0))
            if len(first_end):
                probability = (first_end[start + i] + first_end[start + j]) / (running[n] * (n - 1.0))
            pair = share[k]
            if len(decay):
                pair *= decay[start + i] * decay[start + j]
            weight[out] = pair / (m * probability)


@compiled
def symmetric(source: Any, target: Any, weight: Any, n_items: int) -> Any:
    """CSR of the symmetric matrix of edges that are sorted by source, then target, with source < target."""
    indptr = np.zeros(n_items + 1, np.int64)
    for e in range(len(source)):
        indptr[source[e] + 1] += 1
        indptr[target[e] + 1] += 1
    for row in range(n_items):
        indptr[row + 1] += indptr[row]
    cursor = indptr[:-1].copy()
    columns = np.empty(2 * len(source), np.int32)
    values = np.empty(2 * len(source), np.float64)
    # In this order every row gets its smaller neighbours before its larger ones, both rising.
    for e in range(len(source)):
        row = target[e]
        columns[cursor[row]] = source[e]
        values[cursor[row]] = weight[e]
        cursor[row] += 1
    for e in range(len(source)):
        row = source[e]
        columns[cursor[row]] = target[e]
        values[cursor[row]] = weight[e]
        cursor[row] += 1
    return indptr, columns, values
