"""What the map shows: places, colours, names and memberships, in a form that stays small for large catalogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.evaluation.report.layout import Layout, map_layout
from recsys_dagster.evaluation.report.names import ItemNames, level_names

MAX_ITEMS = 8_000
"""Items that the map shows at most: some 100 bytes each."""

MAX_HUES = 48
"""Distinct colours of prototypes; with more coarse prototypes neighbours share one."""

LEAST_SHARE = 0.01
"""Smaller memberships are not shown."""

PLACES = 10_000
"""Coordinates are whole numbers from 0 to this."""


@dataclass(frozen=True)
class Atlas:
    """The map, and the colours that the whole page takes from it.

    Attributes:
        data: plain values for the script.
        hues: hue in degrees of each colour class.
        item_class: colour class of each item, int64 [N]; -1 for none.
        prototype_class: colour class by prototype id.
        shown: items on the map.
    """

    data: dict[str, Any]
    hues: list[int]
    item_class: NDArray[np.int64]
    prototype_class: dict[int, int]
    shown: NDArray[np.int64]


def make_atlas(
    items: pd.DataFrame,
    memberships: pd.DataFrame,
    prototypes: pd.DataFrame,
    vectors: NDArray[Any],
    overlaps: Sequence[Mapping[str, Any]],
    names: ItemNames,
    max_items: int = MAX_ITEMS,
) -> Atlas:
    """Lay the map out and choose what it shows.

    Args:
        items: item_id (0 to N - 1, in this order), train_popularity.
        memberships: item_id, level, prototype_id, probability.
        prototypes: the prototypes table.
        vectors: a vector for each row of `prototypes`, float [C, d].
        overlaps: pairs of prototypes with their cosine, see `prototype_overlap`.
        names: of the items.
        max_items: most items shown.
    """
    layout = map_layout(memberships, prototypes, np.asarray(vectors, dtype=np.float64), len(items))
    popularity = items["train_popularity"].to_numpy(dtype=np.int64)
    shown = sample_items(layout.labels[:, -1], popularity, max_items)
    number = {int(each): index for index, each in enumerate(prototypes["prototype_id"])}
    colours, hues = _colours(prototypes, layout)
    where = pd.Series(np.arange(len(shown)), index=shown)
    rows = []
    discs = layout.discs[["x", "y", "radius"]].round(4).to_numpy().tolist()
    for row, disc in zip(prototypes.to_dict("records"), discs, strict=True):
        rows.append(
            {
                "label": row["label"] or f"prototype {row['prototype_id']}",
                "level": int(row["level"]),
                "parent": number.get(int(row["parent"]), -1),
                "items": int(row["n_items"]),
                "drift": None if row["previous_id"] < 0 else round(float(row["drift"]), 3),
                "hue": hues[colours[int(row["prototype_id"])]],
                "disc": None if np.isnan(disc[2]) else disc,
                "top": where.reindex(list(row["top_items"])).dropna().astype(int).tolist(),
            }
        )
    levels = [
        {"name": name, "gamma": round(float(part["gamma"].iloc[0]), 3)}
        for name, (_, part) in zip(
            level_names(prototypes["level"].nunique()), prototypes.groupby("level", sort=True), strict=True
        )
    ]
    place_of = np.rint((layout.items[shown] + 1) / 2 * PLACES).astype(int)
    data = {
        "levels": levels,
        "prototypes": rows,
        "overlaps": [[*(number[each] for each in pair["prototypes"]), pair["cosine"]] for pair in overlaps],
        "items": {
            "name": names.of(shown.tolist()),
            "x": place_of[:, 0].tolist(),
            "y": place_of[:, 1].tolist(),
            "seen": popularity[shown].tolist(),
            "in": _shares(memberships, shown, number),
        },
        "places": PLACES,
        "total": len(items),
    }
    classes = np.array([colours.get(int(label), -1) for label in layout.labels[:, 0]], dtype=np.int64)
    return Atlas(data, hues, classes, colours, shown)


def sample_items(labels: NDArray[np.int64], popularity: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Items to show: the most popular ones of each prototype, in proportion to its size; ids in rising order.

    Args:
        labels: prototype of each item, -1 for none (such items are left out).
        popularity: of each item.
        most: how many at most.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.lexsort((known, -popularity[known], labels[known]))]
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, count)
    # The first of every prototype comes before the second of any: no prototype is empty while there is room.
    share = np.where(rank == 0, 0.0, (rank + 0.5) / np.repeat(count, count))
    return np.sort(order[np.lexsort((order, -popularity[order], share))][:most])


def _colours(prototypes: pd.DataFrame, layout: Layout) -> tuple[dict[int, int], list[int]]:
    """Colour class of each prototype, that of its coarsest ancestor; hues run round the map."""
    ids, parents = prototypes["prototype_id"].tolist(), prototypes["parent"].tolist()
    parent = dict(zip(ids, parents, strict=True))
    roots = layout.discs[prototypes["level"].to_numpy() == prototypes["level"].min()]
    turn = np.arctan2(roots["y"], roots["x"]).fillna(0.0).to_numpy()
    order = roots["prototype_id"].to_numpy()[np.lexsort((roots["prototype_id"], turn))]
    n = min(len(order), MAX_HUES)
    colours = {int(root): place * n // len(order) for place, root in enumerate(order)}
    for each in ids:
        top = each
        while top not in colours and parent.get(top, -1) in parent:
            top = parent[top]
        colours[int(each)] = colours.get(top, 0)
    return colours, [round(25 + 360 * step / n) % 360 for step in range(n)]


def _shares(memberships: pd.DataFrame, shown: NDArray[np.int64], number: Mapping[int, int]) -> list[list[int]]:
    """Of each shown item its prototypes and percentages, one after the other, the largest of each level first."""
    place = pd.Series(np.arange(len(shown)), index=shown)
    part = memberships[memberships["probability"] >= LEAST_SHARE]
    part = part.assign(place=place.reindex(part["item_id"]).to_numpy()).dropna(subset="place")
    part = part.sort_values(["place", "level", "probability"], ascending=[True, True, False], kind="stable")
    shares: list[list[int]] = [[] for _ in range(len(shown))]
    for item, prototype, probability in zip(
        part["place"].astype(int), part["prototype_id"], part["probability"], strict=True
    ):
        shares[item] += [number[int(prototype)], round(100 * float(probability))]
    return shares
