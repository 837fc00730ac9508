"""Words of items as features: what a model may know of an item beside who had it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.errors import RecsysError

FEWEST_ITEMS = 2
"""A word of a single item tells nothing about any other."""
WORD = r"(?u)\b\w+\b"


@dataclass(frozen=True)
class ItemFeatures:
    """Which features every item has, one row an item.

    Attributes:
        indptr: int64 [N + 1].
        features: int64 [entries], numbers below `n_features`.
        names: str [n_features], the words.
    """

    indptr: NDArray[np.int64]
    features: NDArray[np.int64]
    names: list[str]

    @property
    def n_features(self) -> int:
        """Number of different features."""
        return len(self.names)


def item_features(items: pd.DataFrame, *, fewest_items: int = FEWEST_ITEMS) -> ItemFeatures:
    """Distinct words of each item's text: its title and categories, or its attributes where it has no title.

    Args:
        items: the table `items`; its `text` is known for every item whatever the split, so nothing leaks.
        fewest_items: words of fewer items are left out.

    Raises:
        RecsysError: no word is shared by so many items.

    >>> table = pd.DataFrame({"text": ["red pen", "Red ink", "blue", "blue pen"]})
    >>> found = item_features(table)
    >>> found.names, found.indptr.tolist(), found.features.tolist()
    (['blue', 'pen', 'red'], [0, 2, 3, 4, 6], [1, 2, 2, 0, 0, 1])
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import: only where it is needed

    vectorizer = CountVectorizer(binary=True, min_df=fewest_items, token_pattern=WORD)
    try:
        counts = vectorizer.fit_transform(items["text"])
    except ValueError as error:  # no word, or none that is frequent enough
        raise RecsysError(
            f"The {len(items)} items' texts share no word: found none that {fewest_items} items have.",
            mend="set features: false, or bring titles, categories or attributes (docs/your-own-data.md).",
        ) from error
    counts.sort_indices()
    return ItemFeatures(
        counts.indptr.astype(np.int64), counts.indices.astype(np.int64), vectorizer.get_feature_names_out().tolist()
    )
