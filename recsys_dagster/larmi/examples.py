"""Ten users to look at: their interests as a markdown table, in which no title can do anything but be read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_dagster.larmi.answers import clean_text

TITLES = 4
"""Titles of an interest that are shown."""


def example_table(user_clusters: pd.DataFrame, items: pd.DataFrame, n_users: int = 10) -> str:
    """The interests of users from all over the table, a line an interest.

    Args:
        user_clusters: columns user_id, cluster, label, item_id, source.
        items: columns item_id (0..N-1), title, text (shown where there is no title).
        n_users: users, taken at even distances.

    Returns:
        A markdown table.
    """
    lines = ["| user | interest | items | titles | answered by |", "|---:|---|---:|---|---|"]
    users = user_clusters["user_id"].unique()
    chosen = users[np.unique(np.linspace(0, len(users) - 1, min(n_users, len(users))).round().astype(int))]
    named = items.set_index("item_id")
    shown = user_clusters[user_clusters["user_id"].isin(chosen)]
    for (user, _), own in shown.groupby(["user_id", "cluster"], sort=False):
        about = named.loc[own["item_id"].head(TITLES)]
        titles = [inert(title or text) for title, text in zip(about["title"].fillna(""), about["text"], strict=True)]
        more = ", ..." if len(own) > TITLES else ""
        label, source = inert(own["label"].iloc[0]), own["source"].iloc[0]
        lines.append(f"| {user} | {label} | {len(own)} | {', '.join(titles)}{more} | {source} |")
    return "\n".join(lines)


def inert(text: object, length: int = 60) -> str:
    """Foreign text as a code span: no markup, no HTML, no link, no new cell.

    >>> inert("a | b `c` <img src=x>\\n# d")
    "`a ¦ b 'c' <img src=x> # d`"
    """
    cleaned = clean_text(str(text), length).replace("`", "'").replace("|", "¦")
    return f"`{cleaned}`" if cleaned else "-"
