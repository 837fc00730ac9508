"""LARMI's vectors as files that any serving system reads: three Parquet tables and a manifest."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.retrieval import Vectors

MANIFEST = "manifest.json"
SCORE = "largest inner product of the item's vector with the user's interests, plus the bias of the pair in history"


def write_export(
    folder: Path, vectors: Vectors, users: pd.DataFrame, items: pd.DataFrame, *, dataset: str, mask_seen: bool
) -> dict[str, Any]:
    """Write the vectors with the keys of the source; the folder appears when it is whole.

    - ``user_interests.parquet``: user_id, user (key), interest (from 0), vector list<float32>
    - ``item_vectors.parquet``: item_id, item (key), vector list<float32>; row = item_id
    - ``history.parquet``: user_id, item_id, bias; the items of each user's history
    - ``manifest.json``: dataset, dimension, counts, how a score is made, and mask_seen: leave out items of the history

    Args:
        folder: to be made.
        vectors: of `vectors_of`.
        users: the table `users`.
        items: the table `items`.
        dataset: name of the dataset.
        mask_seen: items of the history are no candidates.

    Returns:
        The manifest.

    Raises:
        FileExistsError: the folder exists.
    """
    if folder.exists():
        raise FileExistsError(str(folder))
    beside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    keys = users.sort_values("user_id")["source_key"].to_numpy()  # ids are dense from 0
    first = np.searchsorted(vectors.users, vectors.users)
    facts = {
        "dataset": dataset,
        "model": "larmi",
        "users": len(np.unique(vectors.users)),
        "interests": len(vectors.users),
        "items": len(vectors.items),
        "dimension": vectors.items.shape[1],
        "mask_seen": mask_seen,
        "score": SCORE,
    }
    try:
        beside.mkdir(parents=True)
        pd.DataFrame(
            {
                "user_id": vectors.users.astype(np.int32),
                "user": keys[vectors.users],
                "interest": (np.arange(len(first)) - first).astype(np.int16),
                "vector": list(vectors.interests),
            }
        ).to_parquet(beside / "user_interests.parquet", index=False, compression="zstd")
        pd.DataFrame(
            {
                "item_id": np.arange(len(vectors.items), dtype=np.int32),
                "item": items.sort_values("item_id")["source_key"].to_numpy(),
                "vector": list(vectors.items),
            }
        ).to_parquet(beside / "item_vectors.parquet", index=False, compression="zstd")
        pd.DataFrame(
            {
                "user_id": vectors.history_users.astype(np.int32),
                "item_id": vectors.history_items.astype(np.int32),
                "bias": vectors.history_bias,
            }
        ).to_parquet(beside / "history.parquet", index=False, compression="zstd")
        (beside / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return facts


def read_export(folder: Path) -> tuple[Vectors, dict[str, Any]]:
    """The vectors of an export, and its manifest.

    Raises:
        RecsysError: the folder is not an export.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecsysError(
            f"{folder} holds no {MANIFEST}: it is not an export.", mend="run: recsys-dagster export."
        ) from None
    users, items, history = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("user_interests", "item_vectors", "history")
    )
    d = int(facts["dimension"])
    vectors = Vectors(
        users["user_id"].to_numpy(np.int64),
        _matrix(users["vector"], d),
        _matrix(items["vector"], d),
        history["user_id"].to_numpy(np.int64),
        history["item_id"].to_numpy(np.int64),
        history["bias"].to_numpy(np.float32),
    )
    return vectors, facts


def _matrix(rows: pd.Series, d: int) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, np.float32), *rows]).astype(np.float32).reshape(-1, d)
