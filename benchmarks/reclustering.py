"""The nightly re-clustering of a dataset against leidenalg alone, its quality on held-out links, and a second night.

The job is everything that the asset job `recluster` computes: graph, three levels of Leiden, soft memberships, stable
ids, prototypes and tokens. Temperatures are searched once, on the first night, and timed on their own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import main, prepared
from recsys_dagster.data.histories import Histories
from recsys_dagster.data.prepare import Prepared
from recsys_dagster.g2rec.alignment import align
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.leiden import leiden
from recsys_dagster.g2rec.links import link_test, validation_links
from recsys_dagster.g2rec.merging import hard_modularity
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.night import LastNight, hard_labels
from recsys_dagster.g2rec.prototypes import prototype_table
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.g2rec.soft_problem import choose_support
from recsys_dagster.g2rec.soft_solvers import adam, fixed_point
from recsys_dagster.g2rec.tokens import interest_tokens, membership_matrix

TABLE_4 = {"beauty": (0.8, 0.419), "sports": (1.0, 0.365), "toys": (0.8, 0.437), "yelp": (1.0, 0.691)}
"""The paper's resolution and hard modularity of Leiden."""
PAPER_GRAPH = CoengagementConfig(weighting="binary", max_history=50)
"""The graph that gives the paper's row: unweighted, of the 50 most recent items of a user."""
NEW_INTERACTIONS = 0.02


@dataclass
class Night:
    """One run of the job: what it made, and seconds a stage."""

    graph: pd.DataFrame
    memberships: pd.DataFrame
    facts: dict[str, Any]
    last: LastNight
    drift: pd.DataFrame | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def night(
    histories: Histories,
    items: pd.DataFrame,
    embeddings: np.ndarray,
    config: SoftConfig,
    last: LastNight | None = None,
    links: np.ndarray | None = None,
) -> Night:
    """The whole job once, cold or after a last night."""
    seconds, clock = {}, time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage], clock = round(now - clock, 4), now

    graph = build_graph(histories)
    lap("graph")
    table, facts = soft_memberships(graph, histories.n_items, config, last=last, validation_links=links)
    lap("memberships")
    drift, next_id = None, int(table["prototype_id"].max()) + 1
    if last is not None:
        aligned = align(last.memberships, table, next_id=last.next_id)
        table, next_id, drift = aligned.memberships, aligned.next_id, aligned.drift
    previous = None if last is None else last.memberships
    prototype_table(table, items, previous, gammas=facts["gammas"])
    lap("prototypes")
    interest_tokens(table, embeddings)
    lap("tokens")
    left = LastNight(table, next_id, config.resolutions, facts["gammas"], facts["temperatures"], facts["levels"])
    return Night(graph, table, facts, left, drift, seconds)


def shorter(histories: Histories, share: float, seed: int = 0) -> Histories:
    """The log before its newest interactions came: a share of all, each the last of its user."""
    rng = np.random.default_rng(seed)
    able = np.flatnonzero(histories.lengths > 1)
    users = rng.choice(able, min(round(share * len(histories.items)), len(able)), replace=False)
    kept = np.ones(len(histories.items), dtype=bool)
    kept[histories.indptr[users + 1] - 1] = False
    lengths = histories.lengths.copy()
    lengths[users] -= 1
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(indptr, histories.items[kept], histories.n_items)


def leidenalg_seconds(network: Network, graph: pd.DataFrame) -> tuple[float, float]:
    """`leidenalg.find_partition(n_iterations=-1)` alone on a graph made before, at gamma 1; and its modularity."""
    import igraph
    import leidenalg

    theirs = igraph.Graph(n=network.matrix.shape[0], edges=graph[["source", "target"]].to_numpy())
    weights = graph["weight"].tolist()
    started = time.perf_counter()
    found = leidenalg.find_partition(
        theirs, leidenalg.ModularityVertexPartition, weights=weights, n_iterations=-1, seed=0
    )
    seconds = time.perf_counter() - started
    return seconds, hard_modularity(network.matrix, np.asarray(found.membership), 1.0)


def by_level(network: Network, facts: dict[str, Any], first: Night, links: np.ndarray) -> list[list[float]]:
    """AUC of each level alone: of its hard clusters (Leiden again, same seed) and of what was published of it."""
    test = link_test(network.matrix, links, seed=0)
    assert test is not None
    rows = []
    for number, level in enumerate(facts["levels"]):
        labels = leiden(network, level["gamma"])
        hard = sparse.csr_array((np.ones(len(labels)), labels, np.arange(len(labels) + 1)))
        soft, _ = membership_matrix(first.memberships[first.memberships["level"] == number], len(labels))
        rows.append([round(test.quality(test.scores(P))["auc"], 4) for P in (hard, soft)])
    return rows


def solvers(network: Network, facts: dict[str, Any]) -> dict[str, Any]:
    """fixed_point and Adam on the same problems from the same start, level by level: seconds to the same objective.

    It is the one at which fixed_point ends with the job's tolerance. Where Adam is not there after 1,000 steps its time
    is a lower bound (`adam_reached`).
    """
    rows = []
    for level in facts["levels"]:
        labels = leiden(network, level["gamma"])
        support = choose_support(network.matrix, labels, SoftConfig().rho, level["gamma"])
        problem = soft_problem(network.matrix, support, level["gamma"])
        start = support.hard(labels)
        began = time.perf_counter()
        solution = fixed_point(problem, start, level["temperature"], tolerance=SoftConfig().tolerance)
        seconds = time.perf_counter() - began
        goal = solution.objective
        began = time.perf_counter()
        reached = adam(problem, start, level["temperature"], stop_at=goal, tolerance=0.0, max_iterations=1000)
        adam_seconds = time.perf_counter() - began
        rows.append(
            {
                "gamma": level["gamma"],
                "temperature": level["temperature"],
                "objective": solution.objective,
                "iterations": solution.iterations,
                "seconds": round(seconds, 4),
                "adam_objective": reached.objective,
                "adam_reached": reached.objective >= goal,
                "adam_iterations": reached.iterations,
                "adam_seconds": round(adam_seconds, 4),
            }
        )
        print(rows[-1], flush=True)
    ours, theirs = (sum(row[name] for row in rows) for name in ("seconds", "adam_seconds"))
    return {"solvers": rows, "fixed_point_speedup": round(theirs / ours, 1)}


def second_night(data: Prepared, histories: Histories, embeddings: np.ndarray, config: SoftConfig) -> dict[str, Any]:
    """Cold on the log less 2 % of its interactions, then the whole log: cold, and warm from the first night."""
    first = night(shorter(histories, NEW_INTERACTIONS), data.items, embeddings, config)
    warm, cold = [], []
    for _ in range(3):
        cold.append(night(histories, data.items, embeddings, config))
        warm.append(night(histories, data.items, embeddings, config, first.last))
    kept = []
    for level in range(len(config.gammas)):
        before, after = (hard_labels(each.memberships, histories.n_items, level) for each in (first, warm[-1]))
        known = (before >= 0) & (after >= 0)
        kept.append(round(float((before == after)[known].mean()), 4))
    assert warm[-1].drift is not None
    seconds = {name: float(np.median([each.total for each in runs])) for name, runs in (("cold", cold), ("warm", warm))}
    levels = zip(warm[-1].facts["levels"], cold[-1].facts["levels"], strict=True)
    return {
        "kept_items": kept,
        "kept_items_least": min(kept),
        "seconds_cold_night": round(seconds["cold"], 3),
        "seconds_warm_night": round(seconds["warm"], 3),
        "warm_to_cold": round(seconds["warm"] / seconds["cold"], 3),
        "stages_warm": warm[-1].seconds,
        "q_soft_warm_and_cold": [[round(level["q_soft"], 5) for level in both] for both in levels],
        "drift": warm[-1].drift.round(4).to_dict("records"),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    data = prepared(options.dataset)
    log, n_items = data.interactions, len(data.items)
    histories = Histories.from_interactions(log, n_users=len(data.users), n_items=n_items)
    embeddings = np.random.default_rng(0).standard_normal((n_items, 64)).astype(np.float32)
    links = validation_links(log)
    begun = night(histories, data.items, embeddings, SoftConfig(temperatures=[0.02] * 3))  # compiles
    night(histories, data.items, embeddings, SoftConfig(), begun.last)
    first = night(histories, data.items, embeddings, SoftConfig(), links=links)
    print(first.facts, flush=True)
    config = SoftConfig(temperatures=first.facts["temperatures"])
    network = Network.of(first.graph, n_items)
    jobs, alone = [], []
    for _ in range(options.repeats):
        jobs.append(night(histories, data.items, embeddings, config))
        seconds, theirs = leidenalg_seconds(network, first.graph)
        alone.append(seconds)
    job = float(np.median([each.total for each in jobs]))
    facts = first.facts
    result: dict[str, Any] = {
        "dataset": options.dataset,
        "edges": len(first.graph),
        "seconds_job": round(job, 3),
        "stages": jobs[-1].seconds,
        "seconds_leidenalg": round(float(np.median(alone)), 3),
        "ratio": round(job / float(np.median(alone)), 3),
        "seconds_first_night_with_search": round(first.total, 3),
        "q_leidenalg": round(theirs, 5),
        "temperatures": facts["temperatures"],
        "levels": facts["levels"],
        "temperatures_tried": facts["temperatures_tried"],
        **{name: round(facts[name], 4) for name in facts if name.startswith(("auc", "average"))},
        "links": facts["links"],
        "auc_levels_hard_and_soft": by_level(network, facts, first, links),
        "auc_gain": round(facts["auc_soft"] - facts["auc_hard"], 4),
        "soft_to_hard": [round(level["q_soft"] / level["q_hard"], 4) for level in facts["levels"]],
        "second_night": second_night(data, histories, embeddings, config),
        **solvers(network, facts),
    }
    if options.dataset in TABLE_4:
        gamma, paper = TABLE_4[options.dataset]
        theirs_graph = Network(adjacency(build_graph(histories, PAPER_GRAPH), n_items))
        q = hard_modularity(theirs_graph.matrix, leiden(theirs_graph, gamma), gamma)
        result |= {"table_4_gamma": gamma, "table_4_paper": paper, "table_4_ours": round(q, 4)}
    return result


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample", help="a dataset of datasets.toml")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the job and of leidenalg, in turn")


if __name__ == "__main__":
    main(run, arguments)
