"""From a raw log to the prepared tables: k-core, dense ids, split, and stored negatives."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import TEST, TRAIN, VALIDATION
from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.errors import RecsysError

logger = logging.getLogger("recsys_dagster")

N_NEGATIVES = 99
"""Negatives a user, as both papers' tables use them."""
_BLOCK = 4096


@dataclass(frozen=True)
class Prepared:
    """The prepared tables of a dataset.

    Attributes:
        interactions: user_id int32, item_id int32, timestamp int64, position int32 (from 0 within the user), split
            int8 (0 train, 1 validation, 2 test); sorted by user_id and position.
        users: user_id int32, source_key str.
        items: item_id int32, source_key str, title str, categories str, text str, train_popularity int64.
    """

    interactions: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame


def prepare(raw: RawLog, spec: DatasetSpec) -> Prepared:
    """Filter to the k-core, number users and items, order and split.

    Users and items are numbered from 0 in the order in which the source first names them (among the interactions
    that are kept). A user's interactions are ordered by timestamp, equal timestamps in the order of the source.

    Raises:
        RecsysError: nothing is left after the k-core.
    """
    user_codes, user_keys = pd.factorize(raw.interactions["user"])
    item_codes, item_keys = pd.factorize(raw.interactions["item"])
    keep = k_core(user_codes, item_codes, spec.k_core_users, spec.k_core_items)
    if not keep.any():
        raise RecsysError(
            f"dataset '{spec.name}': nothing is left of {len(keep):,} interactions ({len(user_keys):,} users, "
            f"{len(item_keys):,} items) after the k-core with k_core_users = {spec.k_core_users}, "
            f"k_core_items = {spec.k_core_items}.",
            mend="lower k_core_users or k_core_items in the dataset's entry, or bring more data.",
        )
    users, kept_users = pd.factorize(user_codes[keep])
    items, kept_items = pd.factorize(item_codes[keep])
    timestamps = raw.interactions["timestamp"].to_numpy(dtype=np.int64)[keep]
    order = np.lexsort((timestamps, users))  # stable: equal timestamps stay in source order
    users, items, timestamps = users[order].astype(np.int32), items[order].astype(np.int32), timestamps[order]
    lengths = np.bincount(users)
    positions = (np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.int32)
    interactions = pd.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": timestamps,
            "position": positions,
            "split": split_protocol(lengths, spec.protocol),
        }
    )
    logger.info(
        "%s: %s users, %s items, %s of %s interactions kept",
        spec.name, f"{len(kept_users):,}", f"{len(kept_items):,}", f"{len(users):,}", f"{len(keep):,}",
    )  # fmt: skip
    return Prepared(
        interactions,
        _users_table(user_keys.take(kept_users)),
        _items_table(raw, item_keys.take(kept_items), interactions),
    )


def k_core(
    users: NDArray[np.integer], items: NDArray[np.integer], k_users: int = 5, k_items: int = 5
) -> NDArray[np.bool_]:
    """Keep the largest part in which every user has `k_users` and every item `k_items` interactions.

    Interactions are counted, so a repeated pair counts as often as it stands there. Both conditions are applied
    again and again until nothing changes.

    Args:
        users: [interactions] non-negative codes.
        items: [interactions] non-negative codes.
        k_users: fewest interactions of a user.
        k_items: fewest interactions of an item.

    Returns:
        bool [interactions]: what is kept.
    """
    kept = np.arange(len(users))
    n_users, n_items = (int(codes.max()) + 1 if len(codes) else 0 for codes in (users, items))
    while len(kept):
        user_counts = np.bincount(users[kept], minlength=n_users)
        item_counts = np.bincount(items[kept], minlength=n_items)
        stays = (user_counts[users[kept]] >= k_users) & (item_counts[items[kept]] >= k_items)
        if stays.all():
            break
        kept = kept[stays]
    mask = np.zeros(len(users), dtype=np.bool_)
    mask[kept] = True
    return mask


def split_protocol(lengths: NDArray[np.integer], protocol: str) -> NDArray[np.int8]:
    """The split of every interaction, users one after the other in time order.

    ``leave_one_out``: a user's last interaction is test, the one before validation. ``chronological_622``: the first
    0.6 n are train, up to 0.8 n validation, the rest test; both ends are rounded to the nearest whole number (half
    up), so that over all users the parts come near 60, 20 and 20 %. A user with fewer than three interactions is train
    only; every other has at least one interaction in each part.

    Args:
        lengths: [users] number of interactions.
        protocol: name of the protocol.

    Returns:
        int8 [interactions]: 0 train, 1 validation, 2 test.
    """
    n = np.asarray(lengths, dtype=np.int64)
    if protocol == "leave_one_out":
        validation_from, test_from = n - 2, n - 1
    elif protocol == "chronological_622":
        validation_from = np.minimum((6 * n + 5) // 10, n - 2)
        test_from = np.clip((8 * n + 5) // 10, validation_from + 1, n - 1)
    else:
        raise ValueError(f"unknown protocol {protocol!r}, expected leave_one_out or chronological_622")
    short = n < 3
    validation_from, test_from = np.where(short, n, validation_from), np.where(short, n, test_from)
    position = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    split = np.full(len(position), TRAIN, dtype=np.int8)
    split[position >= np.repeat(validation_from, n)] = VALIDATION
    split[position >= np.repeat(test_from, n)] = TEST
    return split


def sample_negatives(
    interactions: pd.DataFrame, n_users: int, n_items: int, n: int = N_NEGATIVES, seed: int = 0
) -> pd.DataFrame:
    """Draw for every user `n` distinct items that the user has in no split, uniformly.

    Blocks of users draw more candidates than needed; a user whose first draw holds too few distinct unowned items
    draws again as a whole, which leaves every set of `n` equally likely. Users with few items to choose from are
    served one by one.

    Args:
        interactions: columns user_id, item_id; all splits.
        n_users: number of users.
        n_items: size of the catalogue.
        n: negatives a user.
        seed: of the random generator.

    Returns:
        Columns user_id int32, item_ids (int32 arrays); fewer than `n` where the catalogue is too small.
    """
    rng = np.random.default_rng(seed)
    pairs = np.unique(
        interactions["user_id"].to_numpy(dtype=np.int64) * n_items + interactions["item_id"].to_numpy(dtype=np.int64)
    )
    owners = pairs // n_items if len(pairs) else pairs
    starts = np.searchsorted(owners, np.arange(n_users + 1))
    free = n_items - np.diff(starts)
    drawn: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)] * n_users
    tight = free < 4 * n
    for user in np.flatnonzero(tight):
        own = pairs[starts[user] : starts[user + 1]] - user * n_items
        others = np.setdiff1d(np.arange(n_items), own, assume_unique=True)
        drawn[user] = rng.permutation(others)[:n].astype(np.int32)
    roomy = np.flatnonzero(~tight)
    for begin in range(0, len(roomy), _BLOCK):
        left = roomy[begin : begin + _BLOCK]
        while len(left):
            complete, chosen = _draw(rng, left, pairs, n_items, n)
            for user, row in zip(left[complete], chosen, strict=True):
                drawn[user] = row
            left = left[~complete]
    return pd.DataFrame({"user_id": np.arange(n_users, dtype=np.int32), "item_ids": drawn})


def _draw(
    rng: np.random.Generator, users: NDArray[np.int64], pairs: NDArray[np.int64], n_items: int, n: int
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """One round of rejection: which users got `n` good candidates, and those candidates [complete users, n]."""
    candidates = rng.integers(n_items, size=(len(users), 2 * n + 16))
    keys = users[:, None] * n_items + candidates
    good = np.ones(keys.shape, dtype=np.bool_)
    if len(pairs):
        at = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        good = pairs[at] != keys
    order = np.argsort(candidates, axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(keys.shape, dtype=np.bool_)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    first = np.empty_like(repeated)
    np.put_along_axis(first, order, ~repeated, axis=1)
    good &= first
    rank = np.cumsum(good, axis=1)
    complete = rank[:, -1] >= n
    take = good & (rank <= n) & complete[:, None]
    return complete, candidates[take].reshape(-1, n).astype(np.int32)


def _users_table(keys: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {"user_id": np.arange(len(keys), dtype=np.int32), "source_key": pd.Series(list(keys), dtype="str")}
    )


def _items_table(raw: RawLog, keys: pd.Index, interactions: pd.DataFrame) -> pd.DataFrame:
    """Items in the order of their ids, with popularity counted on the train split alone."""
    source_key = pd.Series(list(keys), dtype="str")
    train = interactions.loc[interactions["split"] == TRAIN, "item_id"].to_numpy()
    described = raw.items.set_index("item").reindex(source_key)
    table = {"item_id": np.arange(len(keys), dtype=np.int32), "source_key": source_key}
    for column in ("title", "categories", "text"):
        table[column] = described[column].fillna("").astype("str").reset_index(drop=True)
    return pd.DataFrame({**table, "train_popularity": np.bincount(train, minlength=len(keys)).astype(np.int64)})
