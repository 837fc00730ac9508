"""Time and memory of the engines of Leiden on one graph: what keeps it on one machine, and how long (docs/ray.md)."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pandas as pd

from benchmarks.common import main, prepared
from recsys_dagster.data.histories import Histories
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.leiden import LeidenConfig, leiden
from recsys_dagster.g2rec.merging import hard_modularity
from recsys_dagster.g2rec.network import Network
from recsys_dagster.memory import peak_memory_mb

ENGINES = ("compiled", "igraph")


def measured(graph: pd.DataFrame, n_items: int, engine: str, gamma: float) -> dict[str, float]:
    """One run of an engine in a process of its own, after a small one that compiles and imports."""
    config = LeidenConfig.model_validate({"engine": engine})
    leiden(Network.of(graph[:1000], n_items), gamma, config)
    network = Network.of(graph, n_items)
    before, started = peak_memory_mb(), time.perf_counter()
    labels = leiden(network, gamma, config)
    seconds = time.perf_counter() - started
    grown = (peak_memory_mb() - before) * 2**20
    return {
        "seconds": round(seconds, 2),
        "microseconds_an_edge": round(seconds / len(graph) * 1e6, 2),
        "bytes_an_edge_beyond_the_matrix": round(grown / len(graph)),
        "clusters": int(labels.max()) + 1,
        "modularity": round(hard_modularity(network.matrix, labels, gamma), 4),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every engine in turn."""
    data = prepared(options.dataset)
    n_items = len(data.items)
    graph = build_graph(Histories.from_interactions(data.interactions, n_users=len(data.users), n_items=n_items))
    found = {}
    for engine in ENGINES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found[engine] = alone.submit(measured, graph, n_items, engine, options.gamma).result()
    return {"dataset": options.dataset, "items": n_items, "edges": len(graph), "gamma": options.gamma, **found}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample", help="a dataset of datasets.toml")
    parser.add_argument("--gamma", type=float, default=10.0, help="resolution")


if __name__ == "__main__":
    main(run, arguments)
