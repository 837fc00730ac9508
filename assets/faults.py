"""What can be wrong with a table: each function returns the faults it finds, in words, and none for a sound table."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from recsys_dagster.data.histories import Histories

CHUNK = 100_000
"""Edges that are checked against the users at a time."""


def k_core(log: "pd.DataFrame", k_users: int, k_items: int) -> list[str]:
    """Users or items with fewer than k interactions, and ids that are not dense."""
    found = []
    for column, k in (("user_id", k_users), ("item_id", k_items)):
        ids = log[column].to_numpy()
        if len(ids) and ids.min() < 0:
            found.append(f"interactions.{column} holds {ids.min()}, expected 0 or more")
            continue
        counts = np.bincount(ids)
        few = np.flatnonzero(counts < k)
        if len(few):
            have = f"{column} {few[0]} has {counts[few[0]]} interactions"
            found.append(f"interactions: {have}, expected at least {k} ({len(few)} such)")
    return found if len(log) else ["interactions is empty"]


def table_of_ids(table: "pd.DataFrame", name: str, column: str, log: "pd.DataFrame") -> list[str]:
    """Ids that are not 0..n-1 in order, that differ from those of the interactions, or whose source key is repeated."""
    n, ids = int(log[column].max()) + 1, table[column].to_numpy()
    found = []
    if len(ids) != n or not np.array_equal(ids, np.arange(n)):
        found.append(f"{name}.{column} is not 0..{n - 1} in order, the ids of the interactions")
    if table["source_key"].duplicated().any():
        found.append(
            f"{name}: source key {table['source_key'][table['source_key'].duplicated()].iloc[0]!r} is there twice"
        )
    return found


def split_order(log: "pd.DataFrame") -> list[str]:
    """Rows not sorted by user and position, or a split that goes back in time within a user."""
    user, position, split = (log[name].to_numpy().astype(np.int64) for name in ("user_id", "position", "split"))
    same = np.diff(user) == 0
    faults = (
        ("users are not sorted", np.diff(user) < 0),
        ("positions of a user do not rise", same & (np.diff(position) <= 0)),
        ("an earlier split follows a later one", same & (np.diff(split) < 0)),
    )
    return [f"interactions, row {np.argmax(rows) + 1}: {text}" for text, rows in faults if rows.any()]


def popularity(counts: "NDArray[Any]", train: "Histories", name: str) -> list[str]:
    """Counts that differ from the train split's."""
    expected = train.popularity()
    if counts.shape != expected.shape:
        return [f"{name} has {counts.shape} counts, expected {expected.shape}"]
    wrong = np.flatnonzero(counts != expected)
    if not len(wrong):
        return []
    item = wrong[0]
    return [f"{name}: item {item} counts {counts[item]}, the train split has {expected[item]} ({len(wrong)} such)"]


def negatives(table: "pd.DataFrame", log: "pd.DataFrame", n_items: int) -> list[str]:
    """Negatives that the user touched, that are drawn twice, or that do not exist."""
    lengths = table["item_ids"].map(len).to_numpy()
    drawn = np.concatenate(table["item_ids"].to_list()).astype(np.int64) if len(table) else np.empty(0, np.int64)
    keys = np.repeat(table["user_id"].to_numpy().astype(np.int64), lengths) * n_items + drawn
    own = log["user_id"].to_numpy().astype(np.int64) * n_items + log["item_id"].to_numpy()
    found = []
    if len(drawn) and (drawn.min() < 0 or drawn.max() >= n_items):
        found.append("negatives hold an item that does not exist")
    if len(np.unique(keys)) < len(keys):
        found.append("a user has the same negative twice")
    bad = keys[np.isin(keys, own)]
    if len(bad):
        found.append(f"item {bad[0] % n_items} is a negative of user {bad[0] // n_items}, who has it ({len(bad)} such)")
    return found


def clusters(table: "pd.DataFrame", train: "Histories") -> list[str]:
    """Clustered items that are not the user's in the train split, and train items that no cluster holds."""
    have = np.unique(train.users.astype(np.int64) * train.n_items + train.items)
    clustered = np.unique(table["user_id"].to_numpy().astype(np.int64) * train.n_items + table["item_id"].to_numpy())
    return _compare(clustered, have, train.n_items, "user", "its train split", "user_clusters")


def answers(
    asset: str, *, fallback_share: float, repaired_share: float, fallback_ceiling: float, repaired_ceiling: float
) -> list[str]:
    """Answers of a language model that were replaced or repaired too often to be called its own."""
    found = []
    if fallback_share > fallback_ceiling:
        found.append(
            f"{asset}: the local clusterer stood in for {fallback_share:.1%} of the users, expected at most "
            f"{fallback_ceiling:.0%}; recsys-dagster llm cache prune --unusable lets them be asked again"
        )
    if repaired_share > repaired_ceiling:
        found.append(
            f"{asset}: {repaired_share:.1%} of the items were left out, invented or repeated by the model, expected at "
            f"most {repaired_ceiling:.0%}; try another model or a smaller max_items"
        )
    return found


def cliques(table: "pd.DataFrame", train: "Histories") -> list[str]:
    """Cliques whose items are not exactly the train items of their members."""
    from scipy import sparse

    row = np.repeat(np.arange(len(table)), table["members"].map(len))
    members = np.concatenate(table["members"].to_list())
    if members.min() < 0 or members.max() >= train.n_users:
        return ["user_cliques: a member is not in the users table"]
    who = sparse.csr_array((np.ones(len(row), np.int32), (row, members)), shape=(len(table), train.n_users))
    ones = np.ones(len(train.items), np.int32)
    bought = sparse.csr_array((ones, train.items, train.indptr), shape=(train.n_users, train.n_items))
    expected = (who @ bought).tocoo()
    have = np.unique(expected.row.astype(np.int64) * train.n_items + expected.col)
    row = np.repeat(np.arange(len(table), dtype=np.int64), table["items"].map(len))
    claimed = np.unique(row * train.n_items + np.concatenate(table["items"].to_list()))
    return _compare(claimed, have, train.n_items, "clique in row", "the train split of its members", "user_cliques")


def _compare(
    claimed: "NDArray[np.int64]", allowed: "NDArray[np.int64]", n_items: int, owner: str, whose: str, table: str
) -> list[str]:
    found = []
    extra, missing = np.setdiff1d(claimed, allowed), np.setdiff1d(allowed, claimed)
    if len(extra):
        where = f"item {extra[0] % n_items} of {owner} {extra[0] // n_items}"
        found.append(f"{table}: {where} is not in {whose} ({len(extra)} such)")
    if len(missing):
        where = f"item {missing[0] % n_items} of {owner} {missing[0] // n_items}"
        found.append(f"{table}: {where} is in {whose}, but not here ({len(missing)} such)")
    return found


def selection(table: "pd.DataFrame", user_cliques: "pd.DataFrame", budget: int | None) -> list[str]:
    """More than the budget, the same clique twice, a clique that does not exist, or a cover that shrinks."""
    chosen, found = table["clique_id"].to_numpy(), []
    if budget is not None and len(chosen) > budget:
        found.append(f"representative_users: {len(chosen)} cliques are selected, the budget is {budget}")
    if not len(chosen):
        found.append("representative_users: nothing is selected")
    if len(np.unique(chosen)) < len(chosen):
        found.append("representative_users: a clique is selected twice")
    if not np.isin(chosen, user_cliques["clique_id"].to_numpy()).all():
        found.append("representative_users: a selected clique is not in user_cliques")
    covered = table["covered_value"].to_numpy()
    if not np.allclose(np.cumsum(table["marginal_value"].to_numpy()), covered, rtol=1e-6):
        found.append("representative_users: the marginal values do not add up to the covered value")
    return found


def representative_clusters(table: "pd.DataFrame", chosen: "pd.DataFrame", user_cliques: "pd.DataFrame") -> list[str]:
    """Clusters of cliques that are not selected or of items that are not the clique's; selected cliques without any."""
    wanted = set(chosen["clique_id"].tolist())
    there = set(table["user_id"].tolist())
    found = []
    if there != wanted:
        odd = sorted(there ^ wanted)
        found.append(f"representative_clusters: clique {odd[0]} is {'not selected' if odd[0] in there else 'missing'}")
    owned = user_cliques[user_cliques["clique_id"].isin(wanted)].set_index("clique_id")["items"]
    for clique, part in table.groupby("user_id"):
        if clique in owned.index and not np.isin(part["item_id"].to_numpy(), owned.loc[clique]).all():
            found.append(f"representative_clusters: clique {clique} has a clustered item that is not its own")
    return found


def graph(table: "pd.DataFrame", n_items: int) -> list[str]:
    """Self-loops, duplicates, ends outside the items table, weights that are not finite and positive."""
    source, target, weight = (table[name].to_numpy() for name in ("source", "target", "weight"))
    keys = source.astype(np.int64) * n_items + target
    repeated = np.zeros(len(keys), dtype=bool)
    order = np.argsort(keys, kind="stable")
    repeated[order[1:]] = np.diff(keys[order]) == 0
    kinds = (
        ("is a self-loop", source == target),
        ("has its larger item first", source > target),
        ("has an end outside the items table", (source < 0) | (target < 0) | (source >= n_items) | (target >= n_items)),
        ("has a weight that is not a finite positive number", ~(np.isfinite(weight) & (weight > 0))),
        ("is there twice", repeated),
    )
    found = [
        f"coengagement_graph: edge {source[row]}-{target[row]} {text} ({rows.sum()} such)"
        for text, rows in kinds
        if rows.any() and (row := int(np.argmax(rows))) >= 0
    ]
    return found if len(table) else ["coengagement_graph has no edge"]


def graph_leaks(table: "pd.DataFrame", train: "Histories") -> list[str]:
    """Edges without a user who has both items in the train split, and more weight than the train split can give.

    A user with N distinct train items gives at most N (N - 1) / 2 in all: exactly, or in sampled draws whose weights
    are normalised to that very sum.
    """
    from scipy import sparse

    ones = np.ones(len(train.items), np.int32)
    bought = sparse.csr_array((ones, train.items, train.indptr), shape=(train.n_users, train.n_items))
    bought.sum_duplicates()
    bought.data[:] = 1
    sizes = np.diff(bought.indptr).astype(np.float64)
    by_item, found = bought.tocsc(), []
    source, target = table["source"].to_numpy(), table["target"].to_numpy()
    for start in range(0, len(table), CHUNK):
        part = slice(start, start + CHUNK)
        shared = np.asarray(by_item[:, source[part]].multiply(by_item[:, target[part]]).sum(axis=0)).ravel()
        unseen = np.flatnonzero(shared == 0)
        if len(unseen):
            edge = start + unseen[0]
            found.append(
                f"coengagement_graph: no user has both items of edge {source[edge]}-{target[edge]} in the train split "
                f"({len(unseen)} such)"
            )
            break
    total, possible = float(table["weight"].astype(np.float64).sum()), float((sizes * (sizes - 1) / 2).sum())
    if total > possible * (1 + 1e-4) + 1e-6:
        found.append(
            f"coengagement_graph: the weights sum to {total:,.1f}, the train split gives {possible:,.1f} at most"
        )
    return found


def memberships(table: "pd.DataFrame", n_items: int, rho: int | None) -> list[str]:
    """Rows of an item and level that do not sum to 1, are too many, or are missing."""
    grouped = table.groupby(["level", "item_id"])["probability"].agg(["sum", "size", "min"])
    found = []
    off = grouped[~np.isclose(grouped["sum"], 1.0, atol=1e-4)]
    if len(off):
        level, item = off.index[0]
        found.append(
            f"soft_memberships: item {item} at level {level} sums to {off['sum'].iloc[0]:.6f} ({len(off)} such)"
        )
    if rho is not None and (grouped["size"] > rho).any():
        level, item = grouped.index[grouped["size"] > rho][0]
        found.append(f"soft_memberships: item {item} at level {level} has more than rho = {rho} entries")
    if not (grouped["min"] > 0).all():
        found.append("soft_memberships: a probability is not positive")
    levels = table["level"].nunique()
    if len(grouped) != levels * n_items:
        found.append(f"soft_memberships: {len(grouped)} pairs of item and level, expected {levels} x {n_items}")
    if table.duplicated(["level", "item_id", "prototype_id"]).any():
        found.append("soft_memberships: an item has the same prototype twice")
    return found


def prototypes(table: "pd.DataFrame", soft_memberships: "pd.DataFrame") -> list[str]:
    """Ids that are repeated, unknown to the memberships or unknown here, and parents that do not exist."""
    ids, used = table["prototype_id"].to_numpy(), np.unique(soft_memberships["prototype_id"].to_numpy())
    found = []
    if len(np.unique(ids)) < len(ids):
        found.append("prototypes: an id is there twice")
    if not np.isin(used, ids).all():
        found.append(f"prototypes: id {used[~np.isin(used, ids)][0]} has members, but no row")
    parents = table["parent"].to_numpy()
    if not np.isin(parents[parents >= 0], ids).all():
        found.append("prototypes: a parent does not exist")
    sizes = soft_memberships.groupby("prototype_id")["probability"].sum().reindex(ids).fillna(0.0)
    if not np.allclose(sizes, table["size"], rtol=1e-3, atol=1e-2):
        found.append("prototypes: the sizes are not the sums of the memberships")
    return found


def beaten_by_popularity(metrics: "pd.DataFrame", k: int) -> tuple[list[str], dict[str, float]]:
    """Trained models whose NDCG@k in the whole catalogue is not above popularity's, and the ratio of each."""
    rows = metrics[(metrics["candidates"] == "full") & (metrics["metric"] == "NDCG") & (metrics["k"] == k)]
    values = rows.groupby("model")["value"].mean()
    if "popularity" not in values.index:
        return ["metrics: popularity is missing"], {}
    floor = float(values["popularity"])
    others = values.drop("popularity")
    found = [
        f"{name}: NDCG@{k} {value:.4f} is not above popularity's {floor:.4f}"
        for name, value in others.items()
        if value <= floor
    ]
    return found, {f"{name}_over_popularity": float(value / floor) for name, value in others.items() if floor > 0}


def planted_recovery(soft_memberships: "pd.DataFrame", planted: "NDArray[Any]") -> tuple[int, float]:
    """Level whose number of prototypes is nearest to that of the planted interests, and the mutual information there.

    Args:
        soft_memberships: the memberships.
        planted: int [N], the planted interest of each item; items below 0 are left out.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    known = planted >= 0
    wanted = len(np.unique(planted[known]))
    counts = soft_memberships.groupby("level")["prototype_id"].nunique()
    level = int(counts.index.to_numpy()[(counts - wanted).abs().to_numpy().argmin()])
    rows = soft_memberships[soft_memberships["level"] == level].sort_values(
        "probability", ascending=False, kind="stable"
    )
    strongest = rows.drop_duplicates("item_id").set_index("item_id")["prototype_id"].reindex(np.arange(len(planted)))
    return level, float(adjusted_mutual_info_score(planted[known], strongest.to_numpy()[known]))
