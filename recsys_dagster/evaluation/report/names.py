"""What to call items, levels and models."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

LONGEST = 100
"""Characters of a name; longer ones are cut."""


class ItemNames:
    """What to call an item: its title, else its text, else its key in the source, else its id."""

    def __init__(self, items: pd.DataFrame) -> None:
        columns = [items[name].fillna("").astype(str) for name in ("title", "text", "source_key") if name in items]
        self._names: dict[int, str] = {}
        for item, *candidates in zip(items["item_id"], *columns, strict=True):
            name = next((" ".join(each.split()) for each in candidates if each.strip()), f"item {item}")
            self._names[int(item)] = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"

    def of(self, items: Sequence[int]) -> list[str]:
        """Names of some items, in their order."""
        return [self._names.get(int(item), f"item {item}") for item in items]


def level_names(n: int) -> list[str]:
    """Names of the levels of resolution, the coarsest first.

    >>> level_names(3), level_names(1), level_names(4)[2]
    (['Coarse', 'Middle', 'Fine'], ['All'], 'Level 2')
    """
    known = {1: ["All"], 2: ["Coarse", "Fine"], 3: ["Coarse", "Middle", "Fine"]}
    return known.get(n, [f"Level {number}" for number in range(n)])


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "item"), counted(1200, "item"), counted(2, "history", "histories")
    ('1 item', '1,200 items', '2 histories')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
