"""Every check passes on sound tables and fails when the very fault it is for is slipped in."""

import numpy as np
import pandas as pd
import pytest

from assets import faults
from recsys_dagster.data.histories import Histories

N_ITEMS = 5


@pytest.fixture
def log() -> pd.DataFrame:
    """Train, validation and test items: user 0 has 0 1 2, 3, 4; user 1 has 0 1, 2, 3; user 2 has 2 3 4, 1, 0."""
    rows = [
        (0, [0, 1, 2, 3, 4], [0, 0, 0, 1, 2]),
        (1, [0, 1, 2, 3], [0, 0, 1, 2]),
        (2, [2, 3, 4, 1, 0], [0, 0, 0, 1, 2]),
    ]
    return pd.DataFrame(
        [
            {"user_id": user, "item_id": item, "position": place, "split": split}
            for user, items, splits in rows
            for place, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    ).astype({"user_id": "int32", "item_id": "int32", "position": "int32", "split": "int8"})


@pytest.fixture
def train(log) -> Histories:
    return Histories.from_interactions(log, n_users=3, n_items=N_ITEMS)


def edges(*rows) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["source", "target", "weight"])
    return table.astype({"source": "int32", "target": "int32", "weight": "float32"})


@pytest.fixture
def graph() -> pd.DataFrame:
    return edges((0, 1, 2), (0, 2, 1), (1, 2, 1), (2, 3, 1), (2, 4, 1), (3, 4, 1))


def test_graph_of_the_train_split_is_sound(graph, train):
    assert faults.graph(graph, N_ITEMS) == []
    assert faults.graph_leaks(graph, train) == []


def test_leak_check_fails_when_a_test_edge_is_slipped_in(graph, train):
    # 0-4: user 0 has item 4 in the test split only, user 2 has item 0 in the test split only.
    leaked = pd.concat([graph, edges((0, 4, 1))], ignore_index=True)
    (fault, *_) = faults.graph_leaks(leaked, train)
    assert "no user has both items of edge 0-4 in the train split" in fault


def test_leak_check_fails_when_a_validation_pair_adds_to_an_edge_that_exists(graph, train):
    # User 1's validation item 2 makes the pairs 0-2 and 1-2, which user 0 has in the train split: the weight tells.
    graph.loc[1, "weight"] += 1
    graph.loc[2, "weight"] += 1
    assert faults.graph_leaks(graph, train) == [
        "coengagement_graph: the weights sum to 9.0, the train split gives 7.0 at most"
    ]


def test_leak_check_sees_edges_behind_the_first_chunk(graph, train, monkeypatch):
    monkeypatch.setattr(faults, "CHUNK", 2)
    assert faults.graph_leaks(graph, train) == []
    assert faults.graph_leaks(pd.concat([graph, edges((1, 3, 0.1))], ignore_index=True), train)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ((2, 2, 1), "self-loop"),
        ((3, 1, 1), "larger item first"),
        ((0, 5, 1), "outside the items table"),
        ((0, 3, np.nan), "not a finite positive number"),
        ((0, 3, 0), "not a finite positive number"),
        ((3, 4, 1), "there twice"),
    ],
)
def test_unsound_edges_are_found(graph, row, fault):
    (found, *_) = faults.graph(pd.concat([graph, edges(row)], ignore_index=True), N_ITEMS)
    assert fault in found
    assert f"{row[0]}-{row[1]}" in found


def test_graph_without_edges_is_a_fault():
    assert faults.graph(edges(), N_ITEMS) == ["coengagement_graph has no edge"]


def test_k_core_and_split_order(log):
    assert faults.k_core(log, 4, 2) == []
    assert "user_id 1 has 4 interactions, expected at least 5 (1 such)" in faults.k_core(log, 5, 2)[0]
    assert "item_id 0 has 3 interactions" in faults.k_core(log, 4, 4)[0]
    assert faults.split_order(log) == []
    back = log.copy()
    back.loc[4, "split"] = 0
    assert faults.split_order(back) == ["interactions, row 4: an earlier split follows a later one"]
    swapped = log.iloc[[1, 0, *range(2, len(log))]].reset_index(drop=True)
    assert faults.split_order(swapped) == ["interactions, row 1: positions of a user do not rise"]


def test_tables_of_ids(log):
    users = pd.DataFrame({"user_id": [0, 1, 2], "source_key": ["a", "b", "c"]})
    assert faults.table_of_ids(users, "users", "user_id", log) == []
    assert "not 0..2 in order" in faults.table_of_ids(users.iloc[:2], "users", "user_id", log)[0]
    assert (
        "'a' is there twice"
        in faults.table_of_ids(users.assign(source_key=["a", "a", "c"]), "users", "user_id", log)[0]
    )


def test_popularity_of_all_splits_is_a_leak(log, train):
    assert faults.popularity(train.popularity(), train, "items") == []
    everything = log["item_id"].value_counts().sort_index().to_numpy()
    assert "item 0 counts 3, the train split has 2" in faults.popularity(everything, train, "items")[0]
    assert "expected (5,)" in faults.popularity(everything[:4], train, "items")[0]


def test_negatives(log):
    table = pd.DataFrame({"user_id": [0, 1, 2], "item_ids": [[], [4], []]})
    assert faults.negatives(table, log, N_ITEMS) == []
    table["item_ids"] = [[], [3], []]
    assert "item 3 is a negative of user 1, who has it" in faults.negatives(table, log, N_ITEMS)[0]
    table["item_ids"] = [[], [4, 4], []]
    assert "same negative twice" in faults.negatives(table, log, N_ITEMS)[0]


def test_clusters_hold_train_items_of_their_user_only(train):
    rows = [(user, item) for user in range(3) for item in train.of(user)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    assert faults.clusters(table, train) == []
    leaked = pd.concat([table, pd.DataFrame({"user_id": [1], "item_id": [2]})])
    assert faults.clusters(leaked, train) == ["user_clusters: item 2 of user 1 is not in its train split (1 such)"]
    assert "but not here" in faults.clusters(table.iloc[1:], train)[0]


def test_cliques_are_unions_of_train_items(train):
    table = pd.DataFrame({"clique_id": [0, 1], "members": [[0, 1], [1, 2]], "items": [[0, 1, 2], [0, 1, 2, 3, 4]]})
    assert faults.cliques(table, train) == []
    table.at[0, "items"] = [0, 1, 2, 3]
    assert "item 3 of clique in row 0 is not in the train split of its members" in faults.cliques(table, train)[0]
    table.at[0, "members"] = [0, 7]
    assert faults.cliques(table, train) == ["user_cliques: a member is not in the users table"]


def test_selection_stays_within_budget():
    cliques = pd.DataFrame({"clique_id": [0, 1, 2], "items": [[0, 1], [2], [0]]})
    table = pd.DataFrame({"clique_id": [1, 0], "marginal_value": [3.0, 1.0], "covered_value": [3.0, 4.0]})
    assert faults.selection(table, cliques, 2) == []
    assert "2 cliques are selected, the budget is 1" in faults.selection(table, cliques, 1)[0]
    assert "selected twice" in faults.selection(table.assign(clique_id=[1, 1]), cliques, 2)[0]
    assert "not in user_cliques" in faults.selection(table.assign(clique_id=[1, 9]), cliques, 2)[0]
    assert "do not add up" in faults.selection(table.assign(covered_value=[3.0, 5.0]), cliques, 2)[0]
    assert faults.selection(table.iloc[:0], cliques, 2) == ["representative_users: nothing is selected"]


def test_representative_clusters_hold_their_cliques_items():
    cliques = pd.DataFrame({"clique_id": [0, 1, 2], "items": [[0, 1], [2], [0]]})
    chosen = pd.DataFrame({"clique_id": [0, 1]})
    table = pd.DataFrame({"user_id": [0, 0, 1], "item_id": [0, 1, 2]})
    assert faults.representative_clusters(table, chosen, cliques) == []
    assert "not its own" in faults.representative_clusters(table.assign(item_id=[0, 2, 2]), chosen, cliques)[0]
    assert "clique 1 is missing" in faults.representative_clusters(table.iloc[:2], chosen, cliques)[0]
    assert (
        "clique 2 is not selected"
        in faults.representative_clusters(table.assign(user_id=[0, 1, 2]), chosen, cliques)[0]
    )


@pytest.fixture
def memberships() -> pd.DataFrame:
    rows = [(0, 0, 0, 1.0), (0, 1, 2, 0.25), (0, 1, 3, 0.75), (1, 0, 1, 1.0), (1, 1, 3, 1.0)]
    return pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])


def test_memberships_are_sparse_distributions(memberships):
    assert faults.memberships(memberships, 2, 2) == []
    assert "more than rho = 1" in faults.memberships(memberships, 2, 1)[0]
    assert "4 pairs of item and level, expected 2 x 3" in faults.memberships(memberships, 3, 2)[0]
    half = memberships.assign(probability=[1.0, 0.25, 0.5, 1.0, 1.0])
    assert "item 0 at level 1 sums to 0.75" in faults.memberships(half, 2, 2)[0]
    negative = memberships.assign(probability=[1.0, -0.25, 1.25, 1.0, 1.0])
    assert "not positive" in faults.memberships(negative, 2, 2)[0]
    assert "twice" in faults.memberships(memberships.assign(prototype_id=[0, 3, 3, 1, 3]), 2, 2)[0]


def test_prototypes_and_memberships_agree(memberships):
    table = pd.DataFrame({"prototype_id": [0, 1, 2, 3], "parent": [-1, -1, 0, 1], "size": [1.0, 1.0, 0.25, 1.75]})
    assert faults.prototypes(table, memberships) == []
    assert "id 2 has members, but no row" in faults.prototypes(table[table["prototype_id"] != 2], memberships)[0]
    assert "a parent does not exist" in faults.prototypes(table.assign(parent=[-1, -1, 9, 1]), memberships)[0]
    assert "the sizes are not" in faults.prototypes(table.assign(size=[1.0, 1.0, 1.0, 1.0]), memberships)[0]


def test_models_that_popularity_beats_are_named():
    rows = [("popularity", 0.1), ("sasrec", 0.2), ("larmi", 0.1)]
    metrics = pd.DataFrame(rows, columns=["model", "value"]).assign(candidates="full", metric="NDCG", k=10)
    found, margins = faults.beaten_by_popularity(metrics, 10)
    assert found == ["larmi: NDCG@10 0.1000 is not above popularity's 0.1000"]
    assert margins == pytest.approx({"sasrec_over_popularity": 2.0, "larmi_over_popularity": 1.0})
    assert faults.beaten_by_popularity(metrics.iloc[1:], 10)[0] == ["metrics: popularity is missing"]


def test_planted_recovery_takes_the_level_nearest_in_number():
    planted = np.array([0, 0, 1, 1, -1])
    rows = [(item, 0, 0, 1.0) for item in range(5)]
    rows += [(item, 1, 1 + (item // 2 == 1), 0.9) for item in range(5)]
    rows += [(item, 1, 2 - (item // 2 == 1), 0.1) for item in range(5)]
    table = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
    assert faults.planted_recovery(table, planted) == (1, pytest.approx(1.0))
    shuffled = table[table["level"] == 1].assign(item_id=lambda t: (t["item_id"] * 2) % 5)
    assert faults.planted_recovery(shuffled, planted)[1] < 0.5


def test_answers_replaced_or_repaired_too_often_are_faults():
    ceilings = {"fallback_ceiling": 0.05, "repaired_ceiling": 0.10}
    assert faults.answers("user_clusters", fallback_share=0.05, repaired_share=0.10, **ceilings) == []
    (fault,) = faults.answers("user_clusters", fallback_share=0.06, repaired_share=0.0, **ceilings)
    assert "stood in for 6.0% of the users" in fault
    (fault,) = faults.answers("user_clusters", fallback_share=0.0, repaired_share=0.2, **ceilings)
    assert "20.0% of the items" in fault
