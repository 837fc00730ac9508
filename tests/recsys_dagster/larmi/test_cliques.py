"""Cliques (Eq. 5) against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.histories import Histories
from recsys_dagster.larmi import cliques
from recsys_dagster.larmi.cliques import (
    CliqueConfig,
    CliqueInputs,
    InvertedIndex,
    build_cliques,
    clique_users,
    nearest_users,
    neighbour_recall,
)
from recsys_dagster.larmi.max_cover.generated import random_histories

N_ITEMS = 12


def _histories(lists: list[list[int]]) -> Histories:
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int64)
    return Histories(indptr, np.array([item for ids in lists for item in ids], dtype=np.int32), N_ITEMS)


def _slow(lists: list[list[int]], n: int, max_item_users: int | None) -> dict[int, tuple[list[int], list[int]]]:
    sets = [set(ids) for ids in lists]
    users_of = [sum(item in own for own in sets) for item in range(N_ITEMS)]
    counted = [{i for i in own if max_item_users is None or users_of[i] <= max_item_users} for own in sets]
    cliques = {}
    for user, own in enumerate(counted):
        if not sets[user]:
            continue
        ranked = sorted(
            (-len(own & other), -len(own & other) / len(own | other), index)
            for index, other in enumerate(counted)
            if index != user and own & other
        )
        members = [user] + [index for _, _, index in ranked[:n]]
        cliques[user] = (members, sorted(set().union(*(sets[member] for member in members))))
    return cliques


lists_of_items = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=9), min_size=1, max_size=14)


@settings(max_examples=120, deadline=None)
@given(
    lists_of_items,
    st.integers(1, 5),
    st.sampled_from([None, 2, 4]),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([0, 3, 64]),
)
def test_equals_the_loop_for_any_block_and_number_of_popular_items(
    lists: list[list[int]], n: int, max_item_users: int | None, block_users: int, popular: int
) -> None:
    histories = _histories(lists)
    before = histories.items.copy()
    config = CliqueConfig(n_neighbours=n, max_item_users=max_item_users, block_users=block_users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cliques, "POPULAR", popular)
        table = build_cliques(histories, config)
    assert table.attrs["certain_share"] == (1.0 if any(lists) else 0.0)
    found = {
        clique: (members.tolist(), items.tolist())
        for clique, members, items in zip(table["clique_id"], table["members"], table["items"], strict=True)
    }
    assert found == _slow(lists, n, max_item_users)
    # Sparse matrices share memory with what they are made of; the order of time must survive.
    assert (histories.items == before).all()


def test_a_hand_made_case_with_both_ties() -> None:
    lists = [[0, 1, 2], [0, 1, 5, 6], [0, 1, 7], [2, 8], [0, 1, 8]]
    table = build_cliques(_histories(lists), CliqueConfig(n_neighbours=3))
    # Users 1, 2 and 4 share two items with user 0: 2 and 4 have the higher Jaccard index (2/4 against 2/5).
    assert table["members"][0].tolist() == [0, 2, 4, 1]
    assert table["items"][0].tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert table["items"][0].dtype == table["members"][0].dtype == table["clique_id"].dtype == np.int32


@pytest.mark.parametrize("n", [2, 5, 20])
def test_random_groups_have_the_size_are_distinct_and_seeded(n: int) -> None:
    lists = [[user % N_ITEMS] for user in range(11)] + [[]]
    config = CliqueConfig(n_neighbours=n, synthesis="random", block_users=4, seed=3)
    table = build_cliques(_histories(lists), config)
    assert table["clique_id"].tolist() == list(range(11))
    for user, members, items in zip(table["clique_id"], table["members"], table["items"], strict=True):
        assert members[0] == user
        assert len(members) == len(set(members.tolist())) == min(n, 10) + 1
        assert items.tolist() == sorted({lists[member][0] for member in members})
    again = build_cliques(_histories(lists), config)
    assert all((a == b).all() for a, b in zip(table["members"], again["members"], strict=True))
    other = build_cliques(_histories(lists), config.model_copy(update={"seed": 4}))
    assert any((a != b).any() for a, b in zip(table["members"], other["members"], strict=True))


def test_random_groups_are_uniform() -> None:
    lists = [[0]] * 7
    drawn = np.zeros((7, 7))
    for seed in range(300):
        table = build_cliques(_histories(lists), CliqueConfig(n_neighbours=2, synthesis="random", seed=seed))
        for user, members in enumerate(table["members"]):
            drawn[user, members[1:]] += 1
    assert (np.diag(drawn) == 0).all()
    others = drawn[~np.eye(7, dtype=bool)]
    assert abs(others - 100).max() < 40


def test_chosen_cliques_are_handed_on_in_order() -> None:
    table = build_cliques(_histories([[0], [], [1, 0]]), CliqueConfig(n_neighbours=1))
    assert [(clique, items.tolist()) for clique, items in clique_users(table, [2, 0])] == [(2, [0, 1]), (0, [0, 1])]


def _overlap(histories: Histories, u: int, v: int) -> int:
    of = [set(histories.items[histories.indptr[w] : histories.indptr[w + 1]].tolist()) for w in (u, v)]
    return len(of[0] & of[1])


@pytest.mark.parametrize("popular", [0, 8, 64])
def test_the_pruned_search_is_exact_where_lists_are_long(popular: int) -> None:
    histories = random_histories(600, 150, 9, seed=1)
    users = np.arange(0, 600, 7)
    index = InvertedIndex.of(cliques._matrix(histories), popular=popular)
    found, certain = nearest_users(index, users, 10)
    assert certain == len(users)
    sizes = index.sizes.astype(int)
    for row, user in enumerate(users):
        ranked = sorted((-_overlap(histories, user, v), sizes[v], v) for v in range(600) if v != user)
        assert found[row].tolist() == [v for _, _, v in ranked[:10]]


def test_a_limit_on_reads_costs_recall_and_says_so() -> None:
    histories = random_histories(1_500, 400, 12, seed=2)
    exact = neighbour_recall(CliqueInputs.of(histories, CliqueConfig()), CliqueConfig(), sample=200)
    assert exact == {"recall": 1.0, "overlap_recall": 1.0}
    recalls = []
    for max_reads in (1, 60, 10**6):
        config = CliqueConfig(max_reads=max_reads)
        recalls.append(neighbour_recall(CliqueInputs.of(histories, config), config, sample=200)["recall"])
        table = build_cliques(histories, config)
        assert (table.attrs["certain_share"] == 1.0) == (max_reads == 10**6)
    assert 0.1 < recalls[0] < recalls[1] < recalls[2] == 1.0


def test_recall_counts_the_neighbours_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = _histories([[0, 1, 2], [0, 1, 2], [0, 1], [5]])
    answers = {None: [[1, 2], [0, 2], [0, 1], [-1, -1]], 7: [[2, -1], [0, 2], [1, 0], [-1, -1]]}
    monkeypatch.setattr(
        cliques,
        "nearest_users",
        lambda index, users, n, max_reads: (np.array(answers[max_reads], dtype=np.int32)[users], len(users)),
    )
    config = CliqueConfig(n_neighbours=2, max_reads=7)
    found = neighbour_recall(CliqueInputs.of(histories, config), config)
    # Five of six neighbours; user 0's first place has overlap 2 in place of 3 and its second nobody.
    assert found == {"recall": pytest.approx(5 / 6), "overlap_recall": pytest.approx(4 / 6)}
