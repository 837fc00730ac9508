"""What every reader returns."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class RawLog:
    """A dataset as its source gives it, before k-core and split.

    Attributes:
        interactions: columns user str, item str, timestamp int64 (seconds, or the position within the user), in the
            order of the source.
        items: columns item str (once each, every item of the log), title str, categories str (joined by ", "), text
            str; "" where there is nothing.
        truth: the planted interests of the `sample` generator, columns item str, interest int32, second_interest
            int32 (-1 for none); None for all other readers.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    truth: pd.DataFrame | None = None


def item_text(title: str, categories: str) -> str:
    """An item's text: its title and categories, whichever there are."""
    return ". ".join(part for part in (title, categories) if part)
