import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.larmi.memberships import ALIKE, cluster_columns, cluster_members, cluster_table
from recsys_dagster.training.batching import SequenceBatch


def with_late_items(v, items, groups, known):
    """Clusters with those items that their user's clusters do not know (they came later), by loops; v [items, d]."""
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    joined, alone = [list(group) for group in groups], []
    for j, item in enumerate(items):
        if item in known:
            continue
        likeness = {}
        for f, group in enumerate(groups):
            seen = [i for i in group if i < j]
            pairs = [v[a] @ v[b] for a in seen for b in seen if a < b]
            if seen and np.mean([v[j] @ v[i] for i in seen]) > ALIKE * max(np.mean(pairs) if pairs else 1.0, 0.0):
                likeness[f] = np.mean([v[j] @ v[i] for i in seen])
        if likeness:
            joined[max(likeness, key=likeness.get)].append(j)
        else:
            alone.append([j])
    return joined + alone


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_items_that_came_late_join_the_cluster_that_they_are_like(seed):
    rng = np.random.default_rng(seed)
    n_items, lengths = 12, [int(length) for length in rng.integers(1, 9, 4)]
    histories = [rng.permutation(n_items)[:length].tolist() for length in lengths]
    rows = [
        (user, int(rng.integers(0, 3)), item)
        for user, history in enumerate(histories)
        for item in history
        if rng.random() < 0.6
    ]
    keys, values = cluster_table(pd.DataFrame(rows, columns=["user_id", "cluster", "item_id"]), n_items)
    items = torch.zeros(4, max(lengths), dtype=torch.int64)
    for user, history in enumerate(histories):
        items[user, : len(history)] = torch.tensor(history)
    # of three kinds, so that some are like each other and some are not
    kinds, noise = rng.normal(size=(3, 8))[rng.integers(0, 3, n_items)], rng.normal(size=(n_items, 8))
    vectors = kinds + 0.7 * noise
    batch = SequenceBatch(torch.arange(4), items, torch.tensor(lengths))
    members = cluster_members(batch, keys, values, n_items, torch.from_numpy(vectors)[items] * batch.mask[..., None])
    for user, history in enumerate(histories):
        known = {item: f for owner, f, item in rows if owner == user}
        named = {f: [j for j, item in enumerate(history) if known.get(item) == f] for f in sorted(set(known.values()))}
        want = with_late_items(vectors[history], history, list(named.values()), set(known))
        got = [members[user, :, f].nonzero()[:, 0].tolist() for f in range(members.shape[2])]
        assert sorted(group for group in got if group) == sorted(sorted(group) for group in want)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(1, 6), clusters=st.integers(1, 5), k=st.integers(1, 4))
def test_where_routing_starts_does_not_depend_on_later_items(seed, length, clusters, k):
    rng = np.random.default_rng(seed)
    members = torch.from_numpy(rng.random((2, length, clusters)) < 0.4)
    shares = cluster_columns(members, k)
    for row in range(2):
        order: list[int] = []
        for j in range(length):
            own = torch.nonzero(members[row, j])[:, 0].tolist()
            order += [cluster for cluster in own if cluster not in order]
            want = np.zeros(k)
            for cluster in own:
                want[order.index(cluster) % k] += 1 / len(own)
            np.testing.assert_allclose(shares[row, j].numpy(), want, atol=1e-6)
    torch.testing.assert_close(cluster_columns(members[:, :1], k), shares[:, :1])
