"""Cliques of a million users: time, memory, and recall of the pruned search against exact neighbours on a sample.

Synthetic users of 20 items each: half by Zipf's law over a catalogue of a tenth of the users, half from a window of
their own (`benchmarks.coengagement.synthetic`). With the default exponent the most popular item has 3.9 % of the users;
on Beauty, Sports, Toys and Yelp it has 1.1 to 2.5 %. The whole of `build_cliques` is timed: index, neighbours, unions.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.coengagement import synthetic
from benchmarks.common import main
from recsys_dagster.larmi.cliques import CliqueConfig, CliqueInputs, build_cliques, neighbour_recall
from recsys_dagster.memory import peak_memory_mb


def run(options: argparse.Namespace) -> dict[str, Any]:
    build_cliques(synthetic(2_000, 100, length=20))  # compiles, or reads the compiled loop
    histories = synthetic(options.users * 20, options.users // 10, length=20, exponent=options.exponent)
    config = CliqueConfig(max_reads=options.max_reads or None)
    began = time.perf_counter()
    cliques = build_cliques(histories, config)
    seconds = time.perf_counter() - began
    peak = peak_memory_mb() / 2**10
    recall = neighbour_recall(CliqueInputs.of(histories, config), config, options.sample)
    return {
        "users": len(cliques),
        "max_reads": config.max_reads,
        "seconds_cliques": round(seconds, 1),
        "peak_gib": round(peak, 2),
        "certain_share": round(cliques.attrs["certain_share"], 4),
        "recall": round(recall["recall"], 4),
        "overlap_recall": round(recall["overlap_recall"], 4),
        "items_per_clique": round(float(np.mean(cliques["items"].map(len))), 1),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--exponent", type=float, default=0.6, help="of Zipf's law; 1 gives an item 57 %% of the users")
    parser.add_argument("--max-reads", type=int, default=10_000, help="entries read for one user at most; 0: exact")
    parser.add_argument("--sample", type=int, default=1_000, help="users whose recall is measured")


if __name__ == "__main__":
    main(run, arguments)
