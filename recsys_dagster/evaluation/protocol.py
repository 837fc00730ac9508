"""Evaluate a model on the test split, among the whole catalogue and among stored negatives.

Full ranking is the truth; 99 uniform negatives stand beside it because papers report them. Both come from one pass of
scoring. What the model may see of a user is everything before the test split: train and validation items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import TEST
from recsys_dagster.errors import RecsysError
from recsys_dagster.evaluation.metrics import DEFAULT_KS, summarise, user_metrics

if TYPE_CHECKING:
    from recsys_dagster.training.data import SequenceData
    from recsys_dagster.training.ranking import Scorer

FULL, SAMPLED = "full", "sampled_99"
"""Names of the two candidate sets in `metrics`."""

METRIC_COLUMNS = ("dataset", "model", "protocol", "candidates", "metric", "k", "seed", "value", "n_users")
PER_USER_COLUMNS = ("dataset", "model", "protocol", "candidates", "metric", "k", "seed", "user_id", "value")


@dataclass(frozen=True)
class Evaluation:
    """Result of one model on one dataset with one seed.

    Attributes:
        metrics: tidy, columns `METRIC_COLUMNS`; one row a candidate set, metric and cut.
        per_user: columns `PER_USER_COLUMNS`; the deciding metric of each user (NDCG@`test_k`), for paired tests.
    """

    metrics: pd.DataFrame
    per_user: pd.DataFrame


def evaluate(
    scorer: Scorer,
    data: SequenceData,
    negatives: pd.DataFrame | None,
    *,
    dataset: str,
    model: str,
    protocol: str,
    seed: int,
    ks: Sequence[int] = DEFAULT_KS,
    batch_size: int = 256,
) -> pd.DataFrame:
    """The `metrics` rows of a model: see `evaluate_per_user`, whose first part this is."""
    return evaluate_per_user(
        scorer, data, negatives, dataset=dataset, model=model, protocol=protocol, seed=seed, ks=ks,
        batch_size=batch_size,
    ).metrics  # fmt: skip


def evaluate_per_user(
    scorer: Scorer,
    data: SequenceData,
    negatives: pd.DataFrame | None,
    *,
    dataset: str,
    model: str,
    protocol: str,
    seed: int,
    ks: Sequence[int] = DEFAULT_KS,
    batch_size: int = 256,
) -> Evaluation:
    """Rank every test target in both candidate sets.

    An item that is twice among a user's targets is one target. Users without a test target are left out.

    Args:
        scorer: the trained model.
        data: the splits, and whether seen items are candidates.
        negatives: the table of stored negatives (user_id, item_ids), or None for full ranking alone.
        dataset: name of the dataset, for the table.
        model: name of the model, for the table.
        protocol: name of the split protocol, for the table and the cut of the per-user metric.
        seed: the seed that the model was trained with.
        ks: cuts of Recall, HR and NDCG.
        batch_size: users scored at once.

    Raises:
        FloatingPointError: the model gives a score that is not finite.
        RecsysError: the negatives do not belong to this dataset, or no user has a test target.
    """
    found = evaluate_range(
        scorer, data, negatives, model=model, protocol=protocol, ks=ks, batch_size=batch_size, first=0,
        last=data.n_users,
    )  # fmt: skip
    names = {"dataset": dataset, "model": model, "protocol": protocol, "seed": seed}
    return Evaluation(metrics_table([found.sums], names), per_user_table(found.per_user, names))


@dataclass(frozen=True)
class RangeResult:
    """A model on the test targets of a range of users.

    Attributes:
        sums: by candidate set, a frame of one row a block of users: `users`, and the sum of each metric.
        per_user: user_id, value, candidates, metric, k; sorted by user.
    """

    sums: dict[str, pd.DataFrame]
    per_user: pd.DataFrame


def evaluate_range(
    scorer: Scorer,
    data: SequenceData,
    negatives: pd.DataFrame | None,
    *,
    model: str,
    protocol: str,
    ks: Sequence[int],
    batch_size: int,
    first: int,
    last: int,
) -> RangeResult:
    """Rank the test targets of users first to last - 1; a part of `evaluate_per_user`.

    Args:
        scorer: as there.
        data: the splits; only these users need have sequences.
        negatives: as there, of these users.
        model: name of the model.
        protocol: as there.
        ks: as there.
        batch_size: as there; `first` is a multiple of `block_users(batch_size)`, so that batches are the same
            whatever the range.
        first: first user.
        last: last user + 1.
    """
    from recsys_dagster.training.ranking import block_users, target_ranks

    targets = data.targets(TEST)
    drawn = None
    if negatives is not None:
        drawn = negative_matrix(negatives, n_users=last - first, n_items=data.n_items, first=first)
    full, sampled = target_ranks(
        scorer, data.history(TEST), targets, mask_seen=data.mask_seen, negatives=drawn, batch_size=batch_size,
        label=f"{model}: ranking test targets", first_user=first,
    )  # fmt: skip
    test_k = deciding_k(protocol)
    sums, users = {}, []
    for candidates, ranks in ((FULL, full), (SAMPLED, sampled)):
        if ranks is None:
            continue
        per_user = user_metrics(ranks, targets.lengths, sorted({*ks, test_k}))
        wanted = per_user[[*(f"{metric}@{k}" for k in ks for metric in ("Recall", "HR", "NDCG")), "MRR"]]
        blocks = (per_user["user_id"] // block_users(batch_size)).to_numpy()
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        ends = np.append(starts[1:], len(blocks))[: len(starts)]
        summed = {
            name: [wanted[name].to_numpy()[a:b].sum() for a, b in zip(starts, ends, strict=True)] for name in wanted
        }
        sums[candidates] = pd.DataFrame({"users": ends - starts, **summed})
        deciding = per_user[["user_id", f"NDCG@{test_k}"]].set_axis(["user_id", "value"], axis=1)
        users.append(deciding.assign(candidates=candidates, metric="NDCG", k=test_k))
    return RangeResult(sums, pd.concat(users, ignore_index=True).sort_values("user_id", kind="stable"))


def metrics_table(parts: Sequence[dict[str, pd.DataFrame]], names: Mapping[str, Any]) -> pd.DataFrame:
    """`Evaluation.metrics` from the sums of all ranges.

    Raises:
        RecsysError: no user has a test target.
    """
    tables = []
    for candidates in parts[0]:
        sums = pd.concat([part[candidates] for part in parts], ignore_index=True)
        n_users = int(sums["users"].sum())
        if n_users == 0:
            raise RecsysError(
                f"dataset {names['dataset']}: no user has an item in the test split, expected at least one.",
                mend="check the protocol and the k-core settings of the dataset in datasets.toml",
            )
        # fsum is exact, so the blocks may come from any number of ranges.
        means = {name: [math.fsum(sums[name]) / n_users] for name in sums.columns.drop("users")}
        tables.append(summarise(pd.DataFrame({"user_id": [0], **means})).assign(candidates=candidates, n_users=n_users))
    table = pd.concat(tables, ignore_index=True).assign(**names)[list(METRIC_COLUMNS)]
    return table.astype({"seed": "int32", "n_users": "int32"})


def per_user_table(per_user: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """`Evaluation.per_user` of a range."""
    table = per_user.assign(**names)[list(PER_USER_COLUMNS)].reset_index(drop=True)
    return table.astype({"k": "int32", "seed": "int32", "user_id": "int32", "value": "float32"})


def deciding_k(protocol: str) -> int:
    """The cut of the metric that orders models: NDCG@10 with one target a user, NDCG@20 with several.

    >>> deciding_k("leave_one_out"), deciding_k("chronological_622")
    (10, 20)
    """
    return 20 if protocol == "chronological_622" else 10


def negative_matrix(negatives: pd.DataFrame, *, n_users: int, n_items: int, first: int = 0) -> NDArray[np.int32]:
    """The stored negatives of users from `first` on as int32 [U, n], a row a user; -1 fills rows that have fewer.

    Raises:
        RecsysError: a user or an item out of range, a user twice or absent.
    """
    mend = "materialize `negatives` again for this dataset"
    users = negatives["user_id"].to_numpy() - first
    if len(users) != n_users or not np.array_equal(np.sort(users), np.arange(n_users)):
        raise RecsysError(
            f"table negatives: expected one row for each of the {n_users} users, found {len(users)} rows for "
            f"{len(np.unique(users))} users.",
            mend=mend,
        )
    lists = [np.asarray(row, dtype=np.int32) for row in negatives["item_ids"]]
    lengths = np.array([len(row) for row in lists], dtype=np.int64)
    flat = np.concatenate(lists) if lists else np.empty(0, dtype=np.int32)
    if len(flat) and (flat.min() < 0 or flat.max() >= n_items):
        raise RecsysError(
            f"table negatives: expected items 0 to {n_items - 1}, found {flat.min()} to {flat.max()}.", mend=mend
        )
    matrix = np.full((n_users, int(lengths.max(initial=0))), -1, dtype=np.int32)
    matrix[np.repeat(users, lengths), np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = flat
    return matrix
