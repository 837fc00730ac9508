"""Where items and prototypes lie on the map of the report: islands of items, and soft items between them.

Each coarse prototype is a disc whose area is its number of items, next to those that are like it. The items of a finer
prototype lie together in it, the most typical ones in the middle, next to prototypes that are like it; each is then
pulled towards its other prototypes by their probabilities. Nothing is drawn by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
GAP = 0.09
"""Space between sibling discs, as a share of their mean radius."""
STEPS, SETTLING, PULL = 160, 40, 0.02
"""Rounds of drawing together and pushing apart, those at the end that only push, and the pull: a stronger one mixes
neighbours."""
SPREAD = 1.5
"""Radius that discs start in, over that of a disc with as much area as all of them."""
FEW, LARGE = 48, 4.0
"""Discs of which all pairs are looked at; among more, those with one this many times the median, and near ones."""
LEAF = 32
"""Items and places that are matched at once; more are halved first."""


@dataclass(frozen=True)
class Layout:
    """Places on a map that reaches from -1 to 1 in its longer direction.

    Attributes:
        items: x and y of each item, float64 [N, 2]; NaN for an item without a prototype.
        labels: most probable prototype of each item at each level, int64 [N, L]; -1 for none.
        discs: prototype_id, x, y, radius, in the order of the table of prototypes. Those of the coarsest level hold
            their items and touch no other; the finer ones lie in the middle of theirs. NaN for a prototype without.
    """

    items: Floats
    labels: Ints
    discs: pd.DataFrame


def map_layout(memberships: pd.DataFrame, prototypes: pd.DataFrame, vectors: Floats, n_items: int) -> Layout:
    """Lay out items and prototypes.

    Args:
        memberships: item_id, level, prototype_id, probability.
        prototypes: prototype_id, level, parent; a parent stands at the next coarser level (-1: none).
        vectors: one vector a row of `prototypes`, float [C, d]; alike ones are placed near each other.
        n_items: number N of items.
    """
    ids = prototypes["prototype_id"].to_numpy(dtype=np.int64)
    place = pd.Series(np.arange(len(ids)), index=ids)
    parent = place.reindex(prototypes["parent"]).fillna(-1).to_numpy(dtype=np.int64)
    levels = sorted(prototypes["level"].unique().tolist())
    labels = np.stack([most_probable(memberships, level, n_items) for level in levels], axis=1)
    finest = memberships[memberships["level"] == levels[-1]]
    chain = [place.reindex(labels[:, -1]).fillna(-1).to_numpy(dtype=np.int64)]  # an item's prototype, its parent, ...
    for _ in levels[1:]:
        chain.append(np.where(chain[-1] >= 0, parent[chain[-1]], -1))
    home = chain[0]
    every = np.concatenate(chain)
    counts = np.bincount(every[every >= 0], minlength=len(ids))
    radius = np.sqrt(counts)

    nested = _nested(prototypes["level"].to_numpy(), parent, radius, vectors)
    wanted = nested[home] + radius[home, None] * _spiral_of_each(finest, home, place)
    centre = np.full((len(ids), 2), np.nan)
    roots = np.flatnonzero((parent < 0) & (counts > 0))
    centre[roots], _ = pack(radius[roots], vectors[roots])
    whole = float((np.abs(centre[roots]) + radius[roots, None]).max(initial=1e-9))
    slots = np.full((n_items, 2), np.nan)
    island = np.stack(chain).max(axis=0, initial=-1, where=np.isin(np.stack(chain), roots))
    for root in roots:
        members = np.flatnonzero(island == root)
        slots[members] = centre[root] + matched(wanted[members], radius[root] * spiral(len(members)))
    for each in chain:
        own = (each >= 0) & (parent[each] >= 0)
        for axis in (0, 1):
            sums = np.bincount(each[own], slots[own, axis], minlength=len(ids))
            there = np.unique(each[own])
            centre[there, axis] = sums[there] / counts[there]
    items = _between(slots, finest, home, centre, place)
    discs = pd.DataFrame({"prototype_id": ids, "x": centre[:, 0], "y": centre[:, 1]})
    discs["radius"] = np.where(counts > 0, radius, np.nan)
    discs[["x", "y", "radius"]] /= whole
    return Layout(items / whole, labels, discs)


def most_probable(memberships: pd.DataFrame, level: int, n_items: int) -> Ints:
    """The most probable prototype of each item at a level (ties: the smallest id), -1 where it has none; int64 [N]."""
    part = memberships[memberships["level"] == level]
    order = np.lexsort((part["prototype_id"], -part["probability"].to_numpy(), part["item_id"]))
    items = part["item_id"].to_numpy()[order]
    first = np.flatnonzero(np.diff(items, prepend=-1))
    labels = np.full(n_items, -1, dtype=np.int64)
    labels[items[first]] = part["prototype_id"].to_numpy()[order][first]
    return labels


def pack(radii: Floats, vectors: Floats) -> tuple[Floats, float]:
    """Put discs close together without overlap, alike ones near each other.

    They start on an even spiral, each near where the two main directions of its vector would put it, are drawn to the
    middle and pushed apart where they overlap; what overlap is left at the end is removed by spreading all places.

    Args:
        radii: radius of each disc, float [k].
        vectors: vector of each disc, float [k, d].

    Returns:
        Centres [k, 2], and the radius of a disc around the origin that holds all of them.
    """
    k = len(radii)
    if k < 2:
        return np.zeros((k, 2)), float(radii.sum()) if k else 1.0
    wide = radii + GAP * radii.mean()
    places = matched(_main_directions(vectors), spiral(k)) * SPREAD * np.sqrt((wide**2).sum())
    every = np.triu_indices(k, 1) if k <= FEW else None
    for step in range(STEPS):
        places *= 1 - PULL * max(0.0, 1 - step / (STEPS - SETTLING))
        left, right, between, distance = _near(places, every, wide)
        push = np.maximum(wide[left] + wide[right] - distance, 0) / np.maximum(distance, 1e-9)
        share = wide[right] / (wide[left] + wide[right])  # the larger disc gives way less
        for axis in (0, 1):
            move = between[:, axis] * push
            places[:, axis] += np.bincount(left, share * move, minlength=k)
            places[:, axis] -= np.bincount(right, (1 - share) * move, minlength=k)
    left, right, _, distance = _near(places, every, wide)
    if len(distance):
        places *= max(1.0, float(((radii[left] + radii[right]) / np.maximum(distance, 1e-9)).max()))
    # The middle of the box, not of the mass: what counts is how far the outermost disc reaches.
    places -= ((places + wide[:, None]).max(axis=0) + (places - wide[:, None]).min(axis=0)) / 2
    return places, float((np.linalg.norm(places, axis=1) + wide).max())


def _near(places: Floats, every: tuple[Ints, Ints] | None, wide: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """Pairs of discs: both numbers, the vector from the second to the first, its length.

    All of them (`every`), or those that may overlap: a large disc with any other, small ones in reach of each other.
    """
    if every is None:
        from scipy.spatial import cKDTree

        large = wide > LARGE * np.median(wide)
        small = np.flatnonzero(~large)
        close = small[cKDTree(places[small]).query_pairs(2 * wide[small].max(), output_type="ndarray")]
        one, other = np.nonzero(large[:, None] & (~large | (np.arange(len(wide)) > np.arange(len(wide))[:, None])))
        left, right = np.concatenate([close[:, 0], one]), np.concatenate([close[:, 1], other])
    else:
        left, right = every
    between = places[left] - places[right]
    return left, right, between, np.hypot(between[:, 0], between[:, 1])


def _main_directions(vectors: Floats) -> Floats:
    """The two main directions of the vectors, each scaled to a root mean square of 1/2; no two places are equal."""
    k = len(vectors)
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0)
    left, size, right = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((k, 2))
    for axis in range(min(2, len(size))):
        sign = np.sign(right[axis][np.abs(right[axis]).argmax()]) or 1.0
        scale = float(np.sqrt(np.mean(left[:, axis] ** 2)))
        if size[axis] > 1e-9 * max(float(size[0]), 1e-30) and scale > 0:
            places[:, axis] = sign * left[:, axis] / scale / 2
    turn = GOLDEN_ANGLE * np.arange(k)  # twins, and vectors on one line, must part
    apart = 0.05 * np.sqrt((np.arange(k) + 0.5) / k)
    return places + np.stack([apart * np.cos(turn), apart * np.sin(turn)], axis=1)


def spiral(n: int) -> Floats:
    """`n` places that fill the unit disc evenly, from the middle outwards (Vogel's sunflower); [n, 2]."""
    rank = np.arange(n)
    out, turn = np.sqrt((rank + 0.5) / max(n, 1)), GOLDEN_ANGLE * rank
    return np.stack([out * np.cos(turn), out * np.sin(turn)], axis=1)


def matched(wanted: Floats, places: Floats) -> Floats:
    """Give each of n points a place of its own near where it wants to be; [n, 2].

    Points and places are halved along the longer side until few are left, and those matched by least squares.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    wanted = (wanted - wanted.mean(axis=0)) / max(float(wanted.std()), 1e-9) * float(places.std())
    result = np.empty_like(places)
    parts = [(np.arange(len(wanted)), np.arange(len(places)))]
    while parts:
        points, free = parts.pop()
        if len(points) <= LEAF:
            left, right = linear_sum_assignment(cdist(wanted[points], places[free], "sqeuclidean"))
            result[points[left]] = places[free[right]]
            continue
        axis, half = int(np.ptp(places[free], axis=0).argmax()), len(points) // 2
        points = points[np.argsort(wanted[points, axis], kind="stable")]
        free = free[np.argsort(places[free, axis], kind="stable")]
        parts += [(points[:half], free[:half]), (points[half:], free[half:])]
    return result


def _nested(level: Ints, parent: Ints, radius: Floats, vectors: Floats) -> Floats:
    """Discs in discs: the centre of each prototype, told from the centre of its coarsest ancestor; [C, 2]."""
    around, reach = np.zeros((len(level), 2)), radius.copy()
    for number in np.lexsort((np.arange(len(level)), -level)):  # the finest first
        children = np.flatnonzero((parent == number) & (radius > 0))
        if len(children):
            around[children], reach[number] = pack(reach[children], vectors[children])
    for number in np.lexsort((np.arange(len(level)), level)):
        if parent[number] >= 0:
            around[number] += around[parent[number]]
    return around


def _spiral_of_each(finest: pd.DataFrame, home: Ints, place: pd.Series) -> Floats:
    """Where each item lies in the unit disc of its prototype: the more probable, the nearer to the middle; [N, 2]."""
    item = finest["item_id"].to_numpy()
    own = place.reindex(finest["prototype_id"]).to_numpy() == home[item]
    probability = np.zeros(len(home))
    probability[item[own]] = finest["probability"].to_numpy()[own]
    result = np.full((len(home), 2), np.nan)
    known = np.flatnonzero(home >= 0)
    order = known[np.lexsort((known, -probability[known], home[known]))]
    for members in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        result[members] = spiral(len(members))
    return result


def _between(slots: Floats, finest: pd.DataFrame, home: Ints, centre: Floats, place: pd.Series) -> Floats:
    """Each item at the mean of its slot and its other prototypes' centres, weighted by probability; [N, 2]."""
    item = finest["item_id"].to_numpy()
    prototype = place.reindex(finest["prototype_id"]).to_numpy(dtype=np.int64)
    points = np.where((prototype == home[item])[:, None], slots[item], centre[prototype])
    weight = np.where(np.isfinite(points[:, 0]), finest["probability"].to_numpy(dtype=np.float64), 0.0)
    total = np.bincount(item, weight, minlength=len(slots))
    sums = [np.bincount(item, weight * np.nan_to_num(points[:, axis]), minlength=len(slots)) for axis in (0, 1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(sums, axis=1) / total[:, None]
