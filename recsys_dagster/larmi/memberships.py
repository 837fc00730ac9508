"""Which interests an item stands in: the clusters of one user while a history is read, those of the crowd for all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from recsys_dagster.data.features import ItemFeatures, item_features
from recsys_dagster.errors import RecsysError
from recsys_dagster.training.batching import SequenceBatch

ALIKE = 0.5
"""An item that came late joins a cluster that it is half as like as the cluster's items are like each other."""


def cluster_table(user_clusters: pd.DataFrame, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The clusters as sorted keys user * N + item (int64 [rows]) and the cluster of each (int64 [rows])."""
    keys = user_clusters["user_id"].to_numpy().astype(np.int64) * n_items + user_clusters["item_id"].to_numpy()
    order = np.argsort(keys, kind="stable")
    clusters = user_clusters["cluster"].to_numpy().astype(np.int64)
    return torch.from_numpy(keys[order]), torch.from_numpy(clusters[order])


def cluster_members(
    batch: SequenceBatch, keys: torch.Tensor, values: torch.Tensor, n_items: int, vectors: torch.Tensor
) -> torch.Tensor:
    """Which cluster each item of each history stands in: bool [batch, length, F].

    An item that its user's clusters do not name (it came after they were made) joins the one that it is most like, by
    its mean cosine with the cluster's named items that the history has by then, if that is at least `ALIKE` of the mean
    cosine between those (1 for a single one). Otherwise it is a cluster of its own, numbered after the named ones.

    Args:
        batch: the histories.
        keys: of `cluster_table`, int64 [rows].
        values: of `cluster_table`, int64 [rows].
        n_items: N.
        vectors: of the histories' items, float [batch, length, d].
    """
    mask = batch.mask
    wanted = batch.users[:, None] * n_items + batch.items
    left = torch.searchsorted(keys, wanted)
    count = (torch.searchsorted(keys, wanted, right=True) - left) * mask
    row, position = mask.nonzero(as_tuple=True)
    count, left = count[row, position], left[row, position]
    entry = torch.repeat_interleave(torch.arange(len(row), device=row.device), count)
    offset = torch.arange(len(entry), device=row.device) - (count.cumsum(0) - count)[entry]
    cluster = values[left[entry] + offset]
    named = torch.zeros(
        *batch.items.shape, int(cluster.max()) + 1 if len(cluster) else 1, dtype=torch.bool, device=row.device
    )
    named[row[entry], position[entry], cluster] = True
    unnamed = mask & ~named.any(2)
    if not bool(unnamed.any()):
        return named
    named |= _most_like(named, vectors) & unnamed[..., None]
    alone = mask & ~named.any(2)
    own = functional.one_hot((alone.cumsum(1) - 1).clamp(min=0), max(int(alone.sum(1).max()), 1))
    members = torch.cat([named, own.bool() & alone[..., None]], dim=2)
    return members[..., : int(members.any(1).any(0).nonzero().max()) + 1]


def _most_like(named: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The cluster that each item joins, of those seen by then, if it is like any: bool [batch, length, F]."""
    unit, members = functional.normalize(vectors.detach(), dim=2), named.to(vectors)
    cosines, count = (unit @ unit.transpose(1, 2)).tril(), members.cumsum(1)
    likeness = cosines @ members / count.clamp(min=1)
    pairs = ((cosines.tril(-1) @ members) * members).cumsum(1)
    coherence = torch.where(count > 1, pairs / (count * (count - 1) / 2).clamp(min=1), 1.0)
    joins = (count > 0) & (likeness > ALIKE * coherence.clamp(min=0))
    best = likeness.masked_fill(~joins, -torch.inf).argmax(2, keepdim=True)
    return torch.zeros_like(named).scatter_(2, best, joins.gather(2, best))


def cluster_columns(members: torch.Tensor, k: int) -> torch.Tensor:
    """Share of each item in each of K interests where clusters take interests in turn: float [batch, length, K].

    The first cluster that appears in a history takes interest 0, the next one 1, and so on, from 0 again after K; an
    item of several clusters is shared among theirs. What stands at an item depends on the items up to it alone.

    Args:
        members: bool [batch, length, F] of `cluster_members`.
        k: K.

    >>> members = torch.tensor([[[False, True], [True, False], [True, True]]])
    >>> cluster_columns(members, 2)[0].tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """
    length, clusters = members.shape[1:]
    place = torch.arange(length, device=members.device)
    first = torch.where(members, place[:, None], length).amin(1)  # [batch, F]
    order = (first * clusters + torch.arange(clusters, device=members.device)).argsort(1).argsort(1)
    columns = functional.one_hot(order % k, k).float()  # [batch, F, K]
    shares = members.float() @ columns
    return shares / shares.sum(2, keepdim=True).clamp(min=1)


def label_features(user_clusters: pd.DataFrame, n_items: int) -> ItemFeatures | None:
    """The words of the names of all clusters that an item stands in, over all users; None where no two items share one.

    Args:
        user_clusters: columns label, item_id (made of the train split, and so are the words).
        n_items: N; items that stand in no cluster get no word.
    """
    texts = user_clusters.groupby("item_id")["label"].agg(lambda labels: " ".join(sorted(set(labels))))
    table = pd.DataFrame({"text": texts.reindex(range(n_items), fill_value="")})
    try:
        return item_features(table)
    except RecsysError:
        return None


def interest_features(representative_clusters: pd.DataFrame, n_items: int) -> ItemFeatures:
    """The interests of the synthesized users as features of the items that stand in them, one row an item.

    Args:
        representative_clusters: columns user_id, cluster, label, item_id.
        n_items: N; items that no synthesized user has get no feature.
    """
    users = representative_clusters["user_id"].astype(str)
    names = users + "/" + representative_clusters["cluster"].astype(str)
    known, number = np.unique(names.to_numpy(dtype=str), return_inverse=True)
    pairs = np.unique(representative_clusters["item_id"].to_numpy().astype(np.int64) * len(known) + number)
    counts = np.bincount(pairs // len(known), minlength=n_items)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ItemFeatures(indptr, pairs % len(known), known.tolist())
