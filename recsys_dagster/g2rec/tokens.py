"""Interest prototype embeddings and interest profile tokens (G2Rec Eq. 6 and 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError


def membership_matrix(memberships: pd.DataFrame, n_items: int) -> tuple[sparse.csr_array, NDArray[np.int32]]:
    """P of all levels side by side, and which prototype each column is.

    Args:
        memberships: item_id, prototype_id, probability (of one level or several).
        n_items: number N of items.

    Returns:
        float64 CSR [N, C], and int32 [C] prototype ids in rising order.
    """
    ids, columns = np.unique(memberships["prototype_id"].to_numpy(), return_inverse=True)
    rows, values = memberships["item_id"].to_numpy(), memberships["probability"].to_numpy(dtype=np.float64)
    matrix = sparse.coo_array((values, (rows, columns)), shape=(n_items, len(ids))).tocsr()
    return matrix, ids.astype(np.int32)


def interest_tokens(memberships: pd.DataFrame, item_embeddings: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Prototype embeddings V = P^T X / P^T 1 and item tokens Y = P V, as sparse products.

    With several levels every level has its own V_l and Y_l = P_l V_l; the token of an item is the mean of its Y_l.

    Args:
        memberships: soft_memberships; every item has a row at every level.
        item_embeddings: X, [N, d].

    Returns:
        "prototype_ids" int32 [C], rising; "prototype_embeddings" float32 [C, d], in that order; "item_tokens"
        float32 [N, d].

    Raises:
        RecsysError: an embedding is not finite, an item has no membership at some level, or an item id is not below N.
    """
    embeddings = np.asarray(item_embeddings, dtype=np.float64)
    n_items = len(embeddings)
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise RecsysError(
            f"The embedding of item {int(np.argmin(finite))} is not finite.", mend="retrain the item embeddings."
        )
    levels = memberships["level"].nunique()
    seen = memberships[["item_id", "level"]].drop_duplicates()["item_id"].to_numpy()
    if (
        len(seen) == 0
        or seen.min() < 0
        or seen.max() >= n_items
        or (np.bincount(seen, minlength=n_items) < levels).any()
    ):
        raise RecsysError(
            f"Not each of the {n_items} items with an embedding has a membership at each of the {levels} levels, or a "
            "membership names another item.",
            mend="rebuild soft_memberships and item_embeddings from the same items.",
        )
    matrix, ids = membership_matrix(memberships, n_items)
    mass = np.asarray(matrix.sum(axis=0)).ravel()
    prototypes = (matrix.T @ embeddings) / mass[:, None]
    tokens = (matrix @ prototypes) / levels
    return {
        "prototype_ids": ids,
        "prototype_embeddings": prototypes.astype(np.float32),
        "item_tokens": tokens.astype(np.float32),
    }
