"""What LARMI's interests are made of: for one user to read, and measured over all users (Figures 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.memberships import cluster_members, cluster_table
from recsys_dagster.larmi.model import LARMI
from recsys_dagster.layers.collapse import ManyInterests
from recsys_dagster.training.batching import pad
from recsys_dagster.training.ranking import top_n

T = TypeVar("T")

BATCH = 256
RESAMPLES = 1_000
"""Samples of users behind a bootstrap interval."""


@dataclass(frozen=True)
class Interest:
    """One interest of a user.

    Attributes:
        number: from 0.
        labels: names of the semantic clusters in it and their weights alpha_kf, the heaviest first. An item that came
            after the clusters were made is a cluster without a name and is left out.
        items: items of the history and the share of the interest that each makes up, the largest first; they sum to 1.
        recommendations: rank in the user's list, item and score of what this interest puts there.
    """

    number: int
    labels: list[tuple[str, float]]
    items: list[tuple[int, float]]
    recommendations: list[tuple[int, int, float]]


def explain_user(
    model: LARMI, histories: Histories, user_clusters: pd.DataFrame, user: int, *, mask_seen: bool, n: int = 10
) -> list[Interest]:
    """The interests of a user, where each comes from, and which of the user's n best items it brings.

    An item of the list belongs to the interest whose score for it is the largest (the hard readout of Eq. 11).

    Args:
        model: trained.
        histories: what the model may see.
        user_clusters: the clusters that the model was trained on, for their names.
        user: user id.
        mask_seen: items of the history are no candidates.
        n: length of the list.

    Raises:
        RecsysError: the user has no history, or `user_clusters` are not those that the model was trained on.
    """
    check_clusters(model, user_clusters)
    if not int(histories.lengths[user]):
        raise RecsysError(f"user {user} has an empty history: there is no interest to explain.", mend="choose another.")
    best, values = top_n(model, np.array([user]), histories, n=n, mask_seen=mask_seen)
    batch = pad(histories, np.array([user]), model.max_length).to(str(next(model.parameters()).device))
    with torch.no_grad():
        parts, keys = model.anatomy(batch), model.keys(model.item_vectors())
        shares = model.user_routing(batch)[0]
        scores = model.queries(parts.vectors, parts.mass)[0] @ keys.T  # [K, N]
        scores = scores.masked_fill(~parts.valid[0][:, None], -torch.inf)
    winner = scores.argmax(0).cpu().numpy()
    own = user_clusters[user_clusters["user_id"] == user]
    names = dict(zip(own["cluster"].tolist(), own["label"].tolist(), strict=True))
    history = batch.items[0].tolist()
    found = []
    for k in np.flatnonzero(parts.valid[0].cpu().numpy()):
        alignment = parts.alignment[0, k].tolist()
        labels = [(str(names[f]), weight) for f, weight in enumerate(alignment) if weight > 0 and f in names]
        weight_of: dict[int, float] = {}
        for item, share in zip(history, (shares[k] / shares[k].sum()).tolist(), strict=True):
            weight_of[item] = weight_of.get(item, 0.0) + share
        listed = [
            (rank, int(item), float(value))
            for rank, (item, value) in enumerate(zip(best[0], values[0], strict=True), 1)
            if item >= 0 and winner[item] == k
        ]
        found.append(Interest(int(k), _falling(labels), _falling(weight_of.items()), listed))
    return found


def check_clusters(model: LARMI, user_clusters: pd.DataFrame) -> None:
    """Raise where the clusters are not those that the model was trained on: its numbers would get other names."""
    keys, values = cluster_table(user_clusters, model.n_items)
    if not (
        torch.equal(keys, model.cluster_keys.cpu()) and torch.equal(values, model.cluster_values.cpu())
    ):  # fmt: skip
        raise RecsysError(
            f"user_clusters hold {len(keys):,} memberships; they are not the {len(model.cluster_keys):,} that "
            "larmi_model was trained on.",
            mend="materialize larmi_model again.",
        )


def interest_item_cosines(
    model: ManyInterests, items: torch.Tensor, histories: Histories, user: int
) -> NDArray[np.float32]:
    """Cosine of each existing interest with each item of the latest history (Figure 7): float32 [K, length].

    Args:
        model: LARMI or another model of several interests.
        items: its item vectors, float [N, d].
        histories: what the model may see.
        user: user id.
    """
    batch = pad(histories, np.array([user]), model.max_length).to(str(items.device))
    with torch.no_grad():
        interests, valid = model.user_interests(batch)
        own = functional.normalize(interests[0][valid[0]], dim=1)
        cosines = own @ functional.normalize(items[batch.items[0, : int(batch.lengths[0])]], dim=1).T
    found: NDArray[np.float32] = cosines.float().cpu().numpy()
    return found


def cluster_attention(model: LARMI, histories: Histories) -> pd.DataFrame:
    """How coarse each semantic cluster is, and how the attention of Eq. 2 treats it (Figure 6).

    Args:
        model: trained, with the semantic part.
        histories: those that the clusters were made of (the train split).

    Returns:
        One row a user and cluster of at least two items: user_id, items (how many), coarseness (mean over pairs of 1 -
        cosine of the item vectors), negative_entropy (sum of alpha log alpha, the paper's concentration), concentration
        (1 - entropy / log items: 0 for equal weights, 1 for a single item, whatever the size) and recency_concentration
        (the same of the weights that recency alone would give).
    """
    users = np.flatnonzero(histories.lengths >= 2)
    device = str(next(model.parameters()).device)
    model.eval()
    rows: list[dict[str, NDArray[np.generic]]] = []
    with torch.no_grad():
        unit = functional.normalize(model.item_vectors(), dim=1)
        for start in range(0, len(users), BATCH):
            chosen = users[start : start + BATCH]
            batch = pad(histories, chosen, model.max_length).to(device)
            vectors = unit[batch.items]
            members = cluster_members(batch, model.cluster_keys, model.cluster_values, model.n_items, vectors)
            members = members.transpose(1, 2)
            attention = model.anatomy(batch).attention  # [batch, F, length]
            counts = members.sum(2)
            row, cluster = (counts > 1).nonzero(as_tuple=True)
            inside, weights, n = members[row, cluster].float(), attention[row, cluster], counts[row, cluster].float()
            # the sum of all n^2 cosines, n of them are 1
            together = (inside[..., None] * vectors[row]).sum(1).square().sum(-1)
            age = torch.arange(inside.shape[1], device=inside.device) * model.recency[0]
            recent = torch.softmax(age.masked_fill(inside == 0, -torch.inf), dim=1)
            rows.append(
                {
                    "user_id": chosen[row.cpu().numpy()],
                    "items": n.long().cpu().numpy(),
                    "coarseness": (1 - (together - n) / (n * (n - 1))).cpu().numpy(),
                    "negative_entropy": -_entropy(weights).cpu().numpy(),
                    "concentration": (1 - _entropy(weights) / n.log()).cpu().numpy(),
                    "recency_concentration": (1 - _entropy(recent) / n.log()).cpu().numpy(),
                }
            )
    return pd.concat([pd.DataFrame(part) for part in rows], ignore_index=True) if rows else pd.DataFrame()


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation with its 95 % interval.

    Attributes:
        value: the correlation.
        low: lower end.
        high: upper end.
        n: pairs of values.
    """

    value: float
    low: float
    high: float
    n: int


def correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], groups: NDArray[np.int64], seed: int = 0
) -> Correlation:
    """Pearson's correlation and a bootstrap interval.

    The bootstrap draws whole groups, since pairs of one user are not independent.

    Args:
        x: values [n].
        y: values [n].
        groups: whose pair it is [n].
        seed: of the resampling.

    Returns:
        NaN where a side does not vary.
    """
    # centred: sums stay exact
    x, y = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (x, y))
    _, group = np.unique(groups, return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    sums = np.zeros((n_groups, 6))
    for column, values in enumerate((np.ones_like(x), x, y, x * x, y * y, x * y)):
        sums[:, column] = np.bincount(group, values, minlength=n_groups)
    generator, even = np.random.default_rng(seed), np.full(n_groups, 1 / max(n_groups, 1))
    resampled = np.array([_pearson(generator.multinomial(n_groups, even) @ sums) for _ in range(RESAMPLES)])
    known = resampled[np.isfinite(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return Correlation(float(_pearson(sums.sum(0))), float(low), float(high), len(x))


def attention_facts(table: pd.DataFrame) -> dict[str, float]:
    """Figure 6 in figures: correlation of coarseness with either concentration, and its interval.

    Args:
        table: of `cluster_attention`.
    """
    facts: dict[str, float] = {"clusters_of_several_items": len(table)}
    if not len(table):
        return facts
    for name in ("concentration", "negative_entropy"):
        found = correlation(
            table["coarseness"].to_numpy(), table[name].to_numpy(), table["user_id"].to_numpy()
        )  # fmt: skip
        values = {"": found.value, "_low": found.low, "_high": found.high}
        facts |= {f"coarseness_{name}{end}": value for end, value in values.items() if np.isfinite(value)}
    return facts


def example_user(user_clusters: pd.DataFrame, histories: Histories, most: int = 20) -> int | None:
    """The user with the most clusters among those with at most `most` items, the first of equals; None without any."""
    counts = user_clusters.groupby("user_id")["cluster"].nunique()
    counts = counts[histories.lengths[counts.index.to_numpy()] <= most]
    return int(counts.idxmax()) if len(counts) else None


def _entropy(weights: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(weights).sum(-1)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """From [..., 6] sums of 1, x, y, x^2, y^2, x y."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))
    return found


def _falling(pairs: Iterable[tuple[T, float]]) -> list[tuple[T, float]]:
    return sorted(pairs, key=lambda pair: -pair[1])
