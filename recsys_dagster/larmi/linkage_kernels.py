"""Average linkage of many short lists in compiled loops, with the silhouette of every cut on the way.

Import this module inside functions only: numba is slow to import.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_dagster.compiled import compiled


@compiled
def _distances(indptr: Any, terms: Any, values: Any, codes: Any, items: Any, scratch: Any) -> Any:
    """Cosine distances of some items, float64 [n, n]; `scratch` is float64 [terms] of zeros, and is left so."""
    n = len(items)
    found = np.zeros((n, n))
    for i in range(n):
        left = items[i]
        for e in range(indptr[left], indptr[left + 1]):
            scratch[terms[e]] = values[e]
        for j in range(i + 1, n):
            right = items[j]
            distance = 0.0
            if codes[left] != codes[right] or codes[left] < 0:
                similarity = 0.0
                for e in range(indptr[right], indptr[right + 1]):
                    similarity += scratch[terms[e]] * values[e]
                distance = max(1.0 - similarity, 0.0)
            found[i, j] = distance
            found[j, i] = distance
        for e in range(indptr[left], indptr[left + 1]):
            scratch[terms[e]] = 0.0
    return found


@compiled
def pair_distances(indptr: Any, terms: Any, values: Any, codes: Any, n_terms: int, left: Any, right: Any) -> Any:
    """Cosine distance of item left[p] and item right[p], for every p: float64 [pairs]. Arguments as `cluster_lists`."""
    scratch, found = np.zeros(n_terms), np.empty(len(left))
    pair = np.empty(2, np.int64)
    for p in range(len(left)):
        pair[0], pair[1] = left[p], right[p]
        found[p] = _distances(indptr, terms, values, codes, pair, scratch)[0, 1]
    return found


@compiled
def average_linkage(distances: Any) -> Any:
    """Merges of average linkage (UPGMA) by the nearest-neighbour chain, lowest first (Murtagh 1983; Muellner 2011).

    Args:
        distances: float64 [n, n], symmetric.

    Returns:
        pairs int64 [n - 1, 2]: an item of each of the two clusters that are joined (the lower item of the two lists
        first), and heights float64 [n - 1], ascending: the mean distance between the two.
    """
    n = len(distances)
    work = distances.copy()
    size = np.ones(n, np.int64)  # 0 where a cluster has gone into another
    pairs, heights = np.empty((max(n - 1, 0), 2), np.int64), np.empty(max(n - 1, 0))
    chain = np.empty(n, np.int64)
    length = 0
    for merge in range(n - 1):
        if length == 0:
            for start in range(n):
                if size[start] > 0:
                    chain[0] = start
                    length = 1
                    break
        while True:
            tip = chain[length - 1]
            # The one before goes first, so that equal distances end the chain.
            near, least = -1, np.inf
            if length > 1:
                near = chain[length - 2]
                least = work[tip, near]
            for other in range(n):
                if size[other] > 0 and other != tip and work[tip, other] < least:
                    near, least = other, work[tip, other]
            if length > 1 and near == chain[length - 2]:
                break
            chain[length] = near
            length += 1
        length -= 2
        kept, gone = min(tip, near), max(tip, near)
        pairs[merge, 0], pairs[merge, 1], heights[merge] = kept, gone, least
        total = size[kept] + size[gone]
        for other in range(n):
            if size[other] > 0 and other != kept and other != gone:
                mean = (size[kept] * work[kept, other] + size[gone] * work[gone, other]) / total
                work[kept, other] = mean
                work[other, kept] = mean
        size[kept], size[gone] = total, 0
    order = np.argsort(heights, kind="mergesort")
    return pairs[order], heights[order]


@compiled
def _nearest_other(sums: Any, size: Any, item: int, own: int) -> Any:
    """The cluster with the least mean distance to an item, but for its own, and that distance."""
    near, least = -1, np.inf
    for cluster in range(len(size)):
        if size[cluster] > 0 and cluster != own:
            mean = sums[item, cluster] / size[cluster]
            if mean < least:
                near, least = cluster, mean
    return near, least


@compiled
def silhouettes(distances: Any, pairs: Any) -> Any:
    """Mean silhouette after each merge (Rousseeuw 1987); an item that is alone counts 0, and so does one cluster.

    The sums of distances to every cluster are kept up to date, so that all cuts together cost about as much as two or
    three of them alone.

    Args:
        distances: float64 [n, n], symmetric, diagonal 0.
        pairs: int64 [n - 1, 2], as `average_linkage` gives them.

    Returns:
        float64 [n - 1].
    """
    n = len(distances)
    values = np.zeros(len(pairs))
    sums, size, own = distances.copy(), np.ones(n, np.int64), np.arange(n)
    near, least = np.empty(n, np.int64), np.empty(n)
    for item in range(n):
        near[item], least[item] = _nearest_other(sums, size, item, item)
    for merge in range(len(pairs) - 1):
        kept, gone = own[pairs[merge, 0]], own[pairs[merge, 1]]
        size[kept] += size[gone]
        size[gone] = 0
        total = 0.0
        for item in range(n):
            sums[item, kept] += sums[item, gone]
            if own[item] == gone:
                own[item] = kept
            # A mean of two means is above the lower one: only items near one of the two have to look again.
            if near[item] == kept or near[item] == gone:
                near[item], least[item] = _nearest_other(sums, size, item, own[item])
            if size[own[item]] > 1:
                inside = sums[item, own[item]] / (size[own[item]] - 1)
                largest = max(inside, least[item])
                if largest > 0:
                    total += (least[item] - inside) / largest
        values[merge] = total / n
    return values


@compiled
def best_cut(heights: Any, scores: Any, near: float, far: float) -> Any:
    """How many merges to keep: of the cuts at a height in [near, far] the one with the highest silhouette.

    Merges up to `near` are always kept and those above `far` never. Of equal silhouettes the cut with more clusters is
    taken, so where nothing can be told (two items, say) only what is below `near` is joined.

    Args:
        heights: float64 [n - 1], ascending.
        scores: float64 [n - 1], mean silhouette after each merge.
    """
    best: Any = np.searchsorted(heights, near, side="right")
    score = scores[best - 1] if best > 0 else 0.0
    for cut in range(best + 1, np.searchsorted(heights, far, side="right") + 1):
        if scores[cut - 1] > score:
            best, score = cut, scores[cut - 1]
    return best


@compiled
def cluster_lists(
    indptr: Any, terms: Any, values: Any, codes: Any, n_terms: int, items: Any, starts: Any, near: float, far: float
) -> Any:
    """Cluster every list on its own.

    Args:
        indptr, terms, values: compressed rows of the catalogue's item vectors, each of length 1 or empty.
        codes: int64 [N]; items of one code have distance 0 whatever their vectors, -1 is nobody's.
        n_terms: length of an item vector.
        items: int64, the lists one after the other.
        starts: int64 [lists + 1]; list l is ``items[starts[l]:starts[l + 1]]``.
        near, far: cosine distances between which the silhouette chooses (`best_cut`).

    Returns:
        The cluster of each entry of `items`, int64, from 0 within its list in order of first member; and the mean
        silhouette of each list, float64 [lists].
    """
    groups, chosen = np.empty(len(items), np.int64), np.zeros(len(starts) - 1)
    scratch = np.zeros(n_terms)
    for row in range(len(starts) - 1):
        own = groups[starts[row] : starts[row + 1]]
        distances = _distances(indptr, terms, values, codes, items[starts[row] : starts[row + 1]], scratch)
        pairs, heights = average_linkage(distances)
        scores = silhouettes(distances, pairs)
        cut = best_cut(heights, scores, near, far)
        if cut > 0:
            chosen[row] = scores[cut - 1]
        # Every cluster is known by its lowest entry, which its members come to point at.
        n = len(own)
        root = np.arange(n)
        for merge in range(cut):
            kept, gone = pairs[merge, 0], pairs[merge, 1]
            while root[kept] != kept:
                kept = root[kept]
            while root[gone] != gone:
                gone = root[gone]
            root[max(kept, gone)] = min(kept, gone)
        count = 0
        for entry in range(n):
            if root[entry] == entry:
                own[entry] = count
                count += 1
            else:
                own[entry] = own[root[entry]]
    return groups, chosen
