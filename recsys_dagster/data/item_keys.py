"""Which item each row of a stored matrix is: dense ids change from night to night, keys in the source do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FILE = "item_keys.json"


def write_item_keys(directory: Path, keys: Sequence[str]) -> None:
    """Keep the items' keys in the source, in the order of their ids, beside what was learned of them."""
    (directory / FILE).write_text(json.dumps(list(keys), ensure_ascii=False), encoding="utf-8")


def read_item_keys(directory: Path) -> list[str] | None:
    """The keys, or None where none were kept."""
    path = directory / FILE
    keys: list[str] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return keys


def rows_of(
    keys: Sequence[str], vectors: NDArray[np.float32], kept: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors in the order of other keys.

    Args:
        keys: today's items, N of them.
        vectors: float32 [M, d].
        kept: the items of the M rows.

    Returns:
        float32 [N, d], and bool [N]: whether an item has a row of its own. One without takes the mean of those that
        are left, which tells nothing about it.
    """
    rows = pd.Index(kept).get_indexer(pd.Index(keys))
    known = rows >= 0
    mean = vectors[rows[known]].mean(axis=0) if known.any() else np.zeros(vectors.shape[1], dtype=np.float32)
    found = np.where(known[:, None], vectors[rows], mean[None, :]).astype(np.float32)
    return found, known
