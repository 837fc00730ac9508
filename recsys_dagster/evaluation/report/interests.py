"""The sections of interests: the map, the prototypes, their overlaps, example users.

Titles and labels are other people's: all are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

import pandas as pd

from recsys_dagster.evaluation.leaderboard import OUR_MODELS
from recsys_dagster.evaluation.report.atlas import Atlas
from recsys_dagster.evaluation.report.names import ItemNames, counted, level_names
from recsys_dagster.evaluation.report.page import bar_html, list_html, static_text, table_html, text

N_PROTOTYPES, N_ITEMS, N_PAIRS, N_BETWEEN = 24, 8, 8, 2
"""Prototypes a level, items a list, overlapping pairs a level, and items between a pair that the page shows."""

MAP = (
    "Each dot is an item, in the colour of its coarse prototype. It lies in its finest prototype, pulled towards the "
    "others that it belongs to as well: dots between the islands are at home in several."
)
SIZES = (
    "The bar shows the sum of membership probabilities. “Left” is the share of the last run's members that belong "
    "elsewhere now."
)
OVERLAPS = (
    "An item may belong to several prototypes. The cosine compares the memberships of two of them over all items: 0 if "
    "they share none, 1 if they cannot be told apart."
)


def map_html(atlas: Atlas) -> str:
    """The frame of the map; the script fills it."""
    total, shown = atlas.data["total"], len(atlas.shown)
    note = MAP
    if shown < total:
        note += (
            f" Shown are {shown:,} of {total:,} items: the most popular of each prototype, in proportion to its size."
        )
    frame = Template(static_text("map.html")).substitute(count=counted(shown, "item"))
    return f'<p class="note">{text(note)}</p>\n{frame}'


def prototypes_html(prototypes: pd.DataFrame, atlas: Atlas, names: ItemNames) -> str:
    """The prototypes of each level, the largest first."""
    parts: list[str] = []
    levels = level_names(prototypes["level"].nunique())
    for name, (_, part) in zip(levels, prototypes.groupby("level", sort=True), strict=True):
        shown = part.sort_values(["size", "prototype_id"], ascending=[False, True]).head(N_PROTOTYPES)
        largest = float(shown["size"].iloc[0])
        cards = [_prototype_html(row, largest, atlas, names) for row in shown.to_dict("records")]
        count = counted(len(part), "prototype")
        count += "" if len(part) == len(shown) else f", the {len(shown)} largest shown"
        about = f"<small>resolution {float(part['gamma'].iloc[0]):g}: {count}</small>"
        opened = "" if parts else " open"
        body = f'<div class="cards">{"".join(cards)}</div>'
        parts.append(f"<details{opened}><summary>{text(name)} {about}</summary>{body}</details>")
    return f'<p class="note">{text(SIZES)}</p>' + "\n".join(parts) if parts else ""


def _prototype_html(row: Mapping[Any, Any], largest: float, atlas: Atlas, names: ItemNames) -> str:
    change = "new" if row["previous_id"] < 0 else f"{row['drift']:.0%} left"
    label = text(row["label"] or f"prototype {row['prototype_id']}")
    top = list_html(text(each) for each in names.of(list(row["top_items"])[:N_ITEMS]))
    return (
        f'<article class="card"><h4>{dot_html(atlas.prototype_class[int(row["prototype_id"])])}{label}</h4>'
        f'<p class="note">{counted(int(row["n_items"]), "item")} · {change}</p>'
        f"{bar_html(float(row['size']) / largest)}{top}</article>"
    )


def overlaps_html(
    overlaps: Sequence[Mapping[str, Any]], memberships: pd.DataFrame, atlas: Atlas, names: ItemNames, n_levels: int
) -> str:
    """The pairs of prototypes that share most at each level, and the items between them."""
    parts: list[str] = []
    for level, name in enumerate(level_names(n_levels)):
        pairs = [each for each in overlaps if each["level"] == level][:N_PAIRS]
        wanted = memberships[memberships["prototype_id"].isin([end for pair in pairs for end in pair["prototypes"]])]
        share = {
            int(str(key)): part.set_index("item_id")["probability"] for key, part in wanted.groupby("prototype_id")
        }
        rows = []
        for pair in pairs:
            left, right = (share[end] for end in pair["prototypes"])
            shared = (left * right).dropna().sort_index().sort_values(ascending=False, kind="stable")
            ends = zip(pair["prototypes"], pair["labels"], strict=True)
            labels = [f"<span>{dot_html(atlas.prototype_class[end])}{text(label)}</span>" for end, label in ends]
            between = " · ".join(names.of(shared.index[:N_BETWEEN].tolist()))
            cosine = f"{pair['cosine']:.3f}{bar_html(pair['cosine'])}"
            rows.append([f'<span class="pair">{"".join(labels)}</span>', cosine, text(between)])
        if rows:
            table = table_html(["Prototypes", "Cosine", "Items between them"], rows, [1])
            opened = "" if parts else " open"
            parts.append(f"<details{opened}><summary>{text(name)}</summary>{table}</details>")
    return f'<p class="note">{text(OVERLAPS)}</p>' + "\n".join(parts) if parts else ""


def user_html(
    title: str,
    user: int,
    user_clusters: pd.DataFrame,
    recommendations: pd.DataFrame,
    interactions: pd.DataFrame | None,
    atlas: Atlas,
    names: ItemNames,
    titles: Mapping[str, str],
    *,
    opened: bool = False,
) -> str:
    """A user: interests, latest items, recommendations; every item with the colour of its prototype."""

    def listed(items: Sequence[int], *, ordered: bool = False) -> str:
        named = zip(items, names.of(items), strict=True)
        return list_html((dot_html(int(atlas.item_class[item])) + text(name) for item, name in named), ordered=ordered)

    own = user_clusters[user_clusters["user_id"] == user]
    interests = []
    for _, part in own.groupby("cluster", sort=True):
        items = part["item_id"].tolist()
        more = f'<p class="note">and {len(items) - N_ITEMS} more</p>' if len(items) > N_ITEMS else ""
        interests.append(f"<h5>{text(part['label'].iloc[0])}</h5>{listed(items[:N_ITEMS])}{more}")
    columns = [f"<h4>Interests found in the train items</h4>{''.join(interests)}"]
    if interactions is not None:
        latest = interactions.loc[interactions["user_id"] == user, "item_id"].tolist()[-N_ITEMS:][::-1]
        columns.append("<h4>Latest items</h4>" + listed(latest))
    for model in OUR_MODELS:
        best = recommendations[(recommendations["user_id"] == user) & (recommendations["model"] == model)]
        if len(best):
            items = best.sort_values("rank")["item_id"].tolist()[:N_ITEMS]
            columns.append(f"<h4>{text(titles.get(model, model))} recommends</h4>{listed(items, ordered=True)}")
    cards = "".join(f'<div class="card">{column}</div>' for column in columns)
    summary = f"<summary>{text(title)} <small>{counted(len(interests), 'interest')}</small></summary>"
    return f'<details{" open" if opened else ""}>{summary}<div class="cards">{cards}</div></details>'


def dot_html(colour: int) -> str:
    """A dot in a colour of the map; hollow for an item that has none."""
    return f'<i class="dot h{colour}"></i>' if colour >= 0 else '<i class="dot"></i>'
