"""The local clusterer on real users: speed, what its clusters look like, and whether behaviour agrees with them."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.common import main, prepared
from recsys_dagster.data.histories import Histories
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig


def item_rows(train: Histories) -> Any:
    """CSR [items, users], rows of length 1: the product of two is the co-engagement (cosine) of two items."""
    from scipy.sparse import csr_array
    from sklearn.preprocessing import normalize

    users = csr_array((np.ones(len(train.items)), (train.items, train.users)), shape=(train.n_items, train.n_users))
    users.sum_duplicates()
    users.data[:] = 1
    return normalize(users)


def agreement(table: pd.DataFrame, train: Histories, n_users: int, seed: int = 0) -> float:
    """Correlation, within users, of "two items share a cluster" with how often other users had both.

    Co-engagement is the cosine of the two items' train users, each user's own share taken out, under a square root.
    Every user with three items or more counts the same; 0 is what clusters at random get.
    """
    rows = item_rows(train)
    count = np.diff(rows.indptr)
    together, behaviour, weight = [], [], []
    for items, cluster in sampled(table, n_users, seed):
        left, right = np.triu_indices(len(items), 1)
        own = rows[items]
        cosine = (own @ own.T).toarray()[left, right]
        scale = np.sqrt(count[items[left]] * count[items[right]])
        others = np.sqrt(np.maximum(cosine - 1 / scale, 0))
        same = (cluster[left] == cluster[right]).astype(float)
        together.append(same - same.mean())
        behaviour.append(others - others.mean())
        weight.append(np.full(len(same), 1 / len(same)))
    w, x, y = (np.concatenate(part) for part in (weight, together, behaviour))
    return float((w * x * y).sum() / np.sqrt((w * x * x).sum() * (w * y * y).sum()))


def sampled(table: pd.DataFrame, n_users: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Items and clusters of up to n_users users with 3 to 200 rows."""
    _, starts = np.unique(table["user_id"].to_numpy(), return_index=True)
    stops = np.append(starts[1:], len(table))
    eligible = np.flatnonzero((stops - starts >= 3) & (stops - starts <= 200))
    items, clusters = (table[name].to_numpy().astype(np.int64) for name in ("item_id", "cluster"))
    chosen = np.sort(np.random.default_rng(seed).permutation(eligible)[:n_users])
    return [(items[starts[k] : stops[k]], clusters[starts[k] : stops[k]]) for k in chosen]


def run(options: argparse.Namespace) -> dict[str, Any]:
    data = prepared(options.dataset)
    train = Histories.from_interactions(data.interactions, n_users=len(data.users), n_items=len(data.items))
    clusterer = LocalClusterer(LocalClustererConfig(embeddings=options.embeddings))
    # Once for the compiled loops, which are kept on disk from the first run on.
    cluster_users([(0, [0, 1, 2])], data.items.iloc[:3].assign(item_id=range(3)), LocalClusterer())
    began = time.perf_counter()
    table, facts = cluster_users(train, data.items, clusterer)
    seconds = time.perf_counter() - began
    sizes = table.groupby(["user_id", "cluster"]).size()
    return {
        "dataset": options.dataset,
        "users": train.n_users,
        "stage_seconds": round(seconds, 2),
        "users_per_s": round(train.n_users / seconds),
        "clusters_per_user": round(facts["clusters_per_user"], 3),
        "singleton_share": round(facts["singleton_share"], 4),
        "items_alone": round(float((sizes == 1).sum() / sizes.sum()), 4),
        "silhouette": round(facts["silhouette"], 4),
        "coengagement_agreement": round(agreement(table, train, options.users), 4),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="yelp", help="a dataset of datasets.toml")
    parser.add_argument("--users", type=int, default=5_000, help="users that the agreement is taken of")
    parser.add_argument("--embeddings", default="", help="folder of a sentence-embedding model, in place of TF-IDF")


if __name__ == "__main__":
    main(run, arguments)
