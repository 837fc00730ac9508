"""One HTML page about a dataset: who leads, a map of its items by interest, what users get, and how nights moved it.

Titles, labels and names come from other people's data, so all of them are escaped; the page loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.evaluation.report import interests, results
from recsys_dagster.evaluation.report.atlas import MAX_ITEMS, make_atlas
from recsys_dagster.evaluation.report.names import ItemNames
from recsys_dagster.evaluation.report.page import page_html, text

N_USERS = 6
"""Example users that the page shows."""


def interest_report(
    *,
    dataset: str,
    items: pd.DataFrame,
    leaderboard: Mapping[str, Any],
    training: Mapping[str, pd.DataFrame],
    memberships: pd.DataFrame,
    prototypes: pd.DataFrame,
    vectors: NDArray[Any],
    overlaps: Sequence[Mapping[str, Any]],
    user_clusters: pd.DataFrame,
    recommendations: pd.DataFrame,
    interactions: pd.DataFrame | None = None,
    nights: pd.DataFrame | None = None,
    users: Sequence[int] | None = None,
    user_keys: Sequence[str] | None = None,
    facts: Mapping[str, object] | None = None,
    titles: Mapping[str, str] | None = None,
    max_items: int = MAX_ITEMS,
) -> str:
    """Build the page.

    Args:
        dataset: name of the dataset.
        items: the items table (item_id from 0 in this order, title, text, source_key, train_popularity).
        leaderboard: the stored leaderboard (see `Leaderboard.plain`); other datasets in it are left out.
        training: for each model its `training.parquet` (epoch, loss, validation_recall).
        memberships: the soft memberships.
        prototypes: the prototypes table.
        vectors: a vector for each row of `prototypes`, float [C, d]: alike ones lie near each other on the map.
        overlaps: the pairs of prototypes that share most, see `prototype_overlap`.
        user_clusters: the users' interests found by the clusterer.
        recommendations: the recommendations of any number of models; LARMI and G2Rec are shown.
        interactions: the interactions, to show each example user's latest items.
        nights: figures of past clusterings, see `results.nights_html`.
        users: users to show; unless given, a few spread over those with several interests.
        user_keys: key of each user in the source, by id.
        facts: short facts for the head of the page, for example ``{"users": 1200}``.
        titles: how to write the names of models.
        max_items: most items on the map.

    Returns:
        A whole HTML document that makes no request.
    """
    names, titles = ItemNames(items), titles or {}
    atlas = make_atlas(items, memberships, prototypes, vectors, overlaps, names, max_items)
    chosen = list(users) if users is not None else example_users(user_clusters, N_USERS)
    n_levels = prototypes["level"].nunique()
    shown = [
        interests.user_html(
            user_keys[user] if user_keys is not None else f"User {user}",
            user, user_clusters, recommendations, interactions, atlas, names, titles, opened=place == 0,
        )
        for place, user in enumerate(chosen)
    ]  # fmt: skip
    parts = {
        "Map of interests": interests.map_html(atlas),
        "Leaderboard": results.leaderboard_html(leaderboard, dataset, titles),
        "Prototypes": interests.prototypes_html(prototypes, atlas, names),
        "Overlaps": interests.overlaps_html(overlaps, memberships, atlas, names, n_levels),
        "Example users": "\n".join(shown),
        "Nights": "" if nights is None else results.nights_html(nights, n_levels),
        "Training": results.training_html(training, titles),
    }
    told = {**(facts or {}), "items": len(items), "prototypes": len(prototypes)}
    sentence = results.lede(leaderboard, dataset, titles)
    introduction = (f'<p class="lede">{text(sentence)}</p>' if sentence else "") + results.facts_html(told)
    return page_html(dataset, parts, introduction, atlas.hues, atlas.data)


def example_users(user_clusters: pd.DataFrame, n: int) -> list[int]:
    """Up to `n` users spread evenly from the most interests to the fewest, among those with at least two if any.

    >>> example_users(pd.DataFrame({"user_id": [4, 4, 5, 6, 6, 6], "cluster": [0, 1, 0, 0, 1, 2]}), 2)
    [6, 4]
    """
    counts = user_clusters.groupby("user_id")["cluster"].nunique()
    several = counts[counts >= 2] if (counts >= 2).any() else counts
    order = several.sort_index().sort_values(ascending=False, kind="stable").index.to_numpy()
    return [
        int(user) for user in order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))]
    ]
