"""Recall, hit rate, NDCG and MRR from the ranks of the targets.

Everything here starts from one number a target, its rank, as `recsys_dagster.training.ranking.target_ranks` gives it:
1 + the number of candidates that score higher + half of those that score the same. So a rank may end in .5, and a
target counts as found within k when its rank is at most k: a tie that could go either way across the cut is a miss.

A user may have several targets (the `chronological_622` protocol). A user's other targets are candidates too, as they
are in a list that is shown to the user, so two targets that the model puts on top have the ranks 1 and 2.

Where ties put more than k targets within k, the k best-ranked of them count, as no list of k holds more.

- Recall@k: the user's targets with rank <= k, divided by the number of the user's targets.
- HR@k: 1 if any target has rank <= k, else 0.
- NDCG@k: sum of 1 / log2(1 + rank) over the targets with rank <= k, divided by the largest sum possible,
  that of min(targets, k) targets on the first ranks.
- MRR: 1 / rank of the best-ranked target, with no cut.

The figure of a dataset is the mean over its users. With one target a user Recall@k equals HR@k, and NDCG@k needs no
division. These are the definitions of the G2Rec paper's Table 2 (one target) and the LARMI paper's Table 2 (several).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DEFAULT_KS = (1, 5, 10, 20, 50)
"""The cuts that `metrics` holds unless told otherwise."""


class TargetRanks(Protocol):
    """What the metrics need of a ranking: one entry a target (`training.ranking.Ranks` fits)."""

    @property
    def users(self) -> NDArray[np.int64]:
        """int64 [targets]: whose target it is."""
        ...

    @property
    def ranks(self) -> NDArray[np.float64]:
        """float64 [targets]: the rank, at least 1."""
        ...


def recall_at(ranks: Sequence[float] | NDArray[np.float64], k: int, n_targets: int | None = None) -> float:
    """Recall@k of one user.

    Args:
        ranks: ranks of the user's targets.
        k: length of the list.
        n_targets: number of targets, where some of them have no rank; their number in `ranks` unless given.

    >>> recall_at([1, 4, 12], k=10) == 2 / 3
    True
    >>> recall_at([1, 4], k=10, n_targets=4)
    0.5
    >>> recall_at([1.5], k=1)
    0.0
    """
    return float(_one_user(ranks, k, n_targets)["Recall"])


def hit_rate_at(ranks: Sequence[float] | NDArray[np.float64], k: int) -> float:
    """HR@k of one user: 1 if any target is within the first k.

    >>> hit_rate_at([3, 80], k=3), hit_rate_at([3, 80], k=2)
    (1.0, 0.0)
    """
    return float(_one_user(ranks, k, None)["HR"])


def ndcg_at(ranks: Sequence[float] | NDArray[np.float64], k: int, n_targets: int | None = None) -> float:
    """NDCG@k of one user, with the arguments of `recall_at`.

    One target on rank 3 gives 1 / log2(4). Of two targets with one found on rank 1, the ideal sum is
    1 + 1 / log2(3); of two targets cut at k = 1 it is 1.

    >>> ndcg_at([3], k=5)
    0.5
    >>> ndcg_at([1, 2], k=5)
    1.0
    >>> ndcg_at([1, 9], k=1)
    1.0
    >>> round(ndcg_at([1, 9], k=5), 6)
    0.613147
    """
    return float(_one_user(ranks, k, n_targets)["NDCG"])


def reciprocal_rank(ranks: Sequence[float] | NDArray[np.float64]) -> float:
    """1 / rank of the best-ranked target of one user (0 without a target).

    >>> reciprocal_rank([8, 4, 30])
    0.25
    """
    values = np.asarray(ranks, dtype=np.float64)
    return float(1.0 / values.min()) if len(values) else 0.0


def user_metrics(
    ranks: TargetRanks, n_targets_per_user: NDArray[np.int64] | None = None, ks: Sequence[int] = DEFAULT_KS
) -> pd.DataFrame:
    """Every metric of every user who has a target.

    Args:
        ranks: one entry a target, in any order.
        n_targets_per_user: int64 [U], indexed by user id: how many targets each user has. Needed only where some
            targets have no entry in `ranks`; a user with targets and no rank at all then counts with zeros.
        ks: the cuts, each at least 1.

    Returns:
        A frame with one row a user, ascending: user_id, then Recall@k, HR@k, NDCG@k for each k, then MRR (float64).

    Raises:
        ValueError: a rank below 1 or not finite, a cut below 1, or a user with more ranks than targets.

    >>> class Two:
    ...     users = np.array([0, 0, 3])
    ...     ranks = np.array([1.0, 9.0, 4.0])
    >>> user_metrics(Two(), ks=[5]).round(3).to_dict("list")
    {'user_id': [0, 3], 'Recall@5': [0.5, 1.0], 'HR@5': [1.0, 1.0], 'NDCG@5': [0.613, 0.431], 'MRR': [1.0, 0.25]}
    """
    owners, values = np.asarray(ranks.users, dtype=np.int64), np.asarray(ranks.ranks, dtype=np.float64)
    if len(owners) != len(values):
        raise ValueError(f"users and ranks must be of one length, found {len(owners)} and {len(values)}")
    if len(values) and not (np.isfinite(values).all() and values.min() >= 1):
        raise ValueError(f"ranks must be finite and at least 1, found {values[~(values >= 1)][:3].tolist()}")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be at least 1, found {list(ks)}")
    if n_targets_per_user is None:
        users, row, counts = np.unique(owners, return_inverse=True, return_counts=True)
    else:
        totals = np.asarray(n_targets_per_user, dtype=np.int64)
        users = np.flatnonzero(totals > 0)
        counts, row = totals[users], np.searchsorted(users, owners)
        ranked = np.bincount(owners, minlength=len(totals))
        if len(ranked) > len(totals) or (ranked > totals).any():
            raise ValueError("n_targets_per_user is smaller than the number of ranks of some user")
    n_users = len(users)
    order = np.lexsort((values, row))
    row, values = row[order], values[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    discount = 1.0 / np.log2(1.0 + values)
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {"user_id": users}
    for k in ks:
        hit = (values <= k) & (place < k)
        hits = np.bincount(row[hit], minlength=n_users)
        gain = np.bincount(row[hit], weights=discount[hit], minlength=n_users)
        columns[f"Recall@{k}"] = hits / counts
        columns[f"HR@{k}"] = (hits > 0).astype(np.float64)
        columns[f"NDCG@{k}"] = gain / _ideal_gain(k)[np.minimum(counts, k)]
    best = np.full(n_users, np.inf)
    np.minimum.at(best, row, values)
    columns["MRR"] = 1.0 / best
    return pd.DataFrame(columns)


def ranking_metrics(
    ranks: TargetRanks, n_targets_per_user: NDArray[np.int64] | None = None, ks: Sequence[int] = DEFAULT_KS
) -> pd.DataFrame:
    """The mean over users of every metric, tidy.

    Args:
        ranks: as in `user_metrics`.
        n_targets_per_user: as in `user_metrics`.
        ks: the cuts.

    Returns:
        A frame with the columns metric (Recall, HR, NDCG, MRR), k (0 for MRR), value and n_users, in the order of `ks`.
        Values are 0 where there is no user.

    >>> class One:
    ...     users = np.array([0, 1, 2, 3])
    ...     ranks = np.array([1.0, 3.0, 7.0, 100.0])
    >>> ranking_metrics(One(), ks=[1, 3]).query("k == 3")["value"].tolist()
    [0.5, 0.5, 0.375]
    """
    return summarise(user_metrics(ranks, n_targets_per_user, ks))


def summarise(per_user: pd.DataFrame) -> pd.DataFrame:
    """Means over the users of a frame made by `user_metrics`, tidy: metric, k, value, n_users."""
    rows = []
    for name in per_user.columns.drop("user_id"):
        metric, _, k = name.partition("@")
        value = float(per_user[name].mean()) if len(per_user) else 0.0
        rows.append((metric, int(k or 0), value, len(per_user)))
    table = pd.DataFrame(rows, columns=["metric", "k", "value", "n_users"])
    return table.astype({"k": "int32", "value": "float64", "n_users": "int32"})


def _ideal_gain(k: int) -> NDArray[np.float64]:
    """float64 [k + 1]: the discounted gain of 0..k targets on the first ranks."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))])


def _one_user(ranks: Sequence[float] | NDArray[np.float64], k: int, n_targets: int | None) -> dict[str, float]:
    values = np.asarray(ranks, dtype=np.float64)
    total = len(values) if n_targets is None else n_targets

    class Single:
        users = np.zeros(len(values), dtype=np.int64)
        ranks = values

    if total == 0:
        return {"Recall": 0.0, "HR": 0.0, "NDCG": 0.0}
    row = user_metrics(Single(), np.array([total]), [k]).iloc[0]
    return {metric: float(row[f"{metric}@{k}"]) for metric in ("Recall", "HR", "NDCG")}
