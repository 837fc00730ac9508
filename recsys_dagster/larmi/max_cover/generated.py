"""Generated max-cover instances: those of the published recipe, and ones like the cliques of real users."""

from __future__ import annotations

import numpy as np

from recsys_dagster.data.histories import Histories
from recsys_dagster.larmi.cliques import CliqueConfig, build_cliques
from recsys_dagster.larmi.max_cover.config import MaxCoverConfig
from recsys_dagster.larmi.max_cover.instance import CoverInstance, build_instance


def random_instance(n_sets: int, n_items: int, budget: int, seed: int) -> CoverInstance:
    """The recipe of Wang et al. (2022): each set covers 10 to 30 objects drawn without replacement, values 1 to 100."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.integers(10, 31, n_sets), n_items)
    drawn = [rng.choice(n_items, size, replace=False, shuffle=False) for size in sizes]
    values = rng.integers(1, 101, n_items).astype(np.float64)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return CoverInstance(indptr, np.concatenate(drawn).astype(np.int32), values, budget)


def random_histories(n_users: int, n_items: int, length: int, seed: int) -> Histories:
    """Users of `length` draws: half by Zipf's law over the catalogue, half from a window of the user's own taste."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1 / np.arange(1, n_items + 1))
    popular = np.searchsorted(cumulative / cumulative[-1], rng.random((n_users, length)))
    width = max(n_items // 50, 4 * length)
    own = (rng.integers(0, n_items, (n_users, 1)) + rng.integers(0, width, (n_users, length))) % n_items
    items = np.where(rng.random((n_users, length)) < 0.5, popular, own).astype(np.int32)
    return Histories(np.arange(n_users + 1, dtype=np.int64) * length, items.ravel(), n_items)


def clique_instance(n_users: int, n_items: int, budget: int, seed: int) -> CoverInstance:
    """The cliques of random users, with the values of Eq. 7."""
    histories = random_histories(n_users, n_items, 8, seed)
    cliques = build_cliques(histories, CliqueConfig(n_neighbours=10))
    return build_instance(cliques, histories, MaxCoverConfig(budget=budget))
