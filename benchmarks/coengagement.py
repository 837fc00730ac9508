"""The co-engagement graph: time and memory against the size of the log, and speed against scipy's exact product.

Synthetic logs: items by Zipf's law, lengths of histories by a geometric law between 5 and 200, users with tastes of
their own so that pairs repeat as they do in real logs.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.common import main
from recsys_dagster.data.histories import Histories
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.g2rec.spectrum import measured_epsilon

SHORTEST, LONGEST, MEAN = 5, 200, 15


def synthetic(
    n_interactions: int, n_items: int, *, length: int | None = None, exponent: float = 1.0, seed: int = 0
) -> Histories:
    """A log of about n_interactions distinct user-item pairs."""
    rng = np.random.default_rng(seed)
    if length is None:
        drawn = rng.geometric(1 / (MEAN - SHORTEST + 1), size=int(n_interactions / MEAN * 1.5) + 10) + SHORTEST - 1
        lengths = np.minimum(drawn, LONGEST)
        lengths = lengths[: np.searchsorted(np.cumsum(lengths), n_interactions) + 1]
    else:
        lengths = np.full(max(n_interactions // length, 1), length)
    # Inverse of Zipf's distribution function by a table; half of a user's items come from a window of his own.
    cumulative = np.cumsum(np.arange(1, n_items + 1) ** -exponent)
    cumulative /= cumulative[-1]
    users = np.repeat(np.arange(len(lengths)), lengths)
    rank = np.searchsorted(cumulative, rng.random(len(users))).astype(np.int64)
    taste = rng.integers(0, n_items, len(lengths))[users]
    width = max(n_items // 50, 4 * LONGEST)
    own = (taste + rng.integers(0, width, len(users))) % n_items
    items = np.where(rng.random(len(users)) < 0.5, rank, own).astype(np.int32)
    return Histories(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items, n_items)


class PeakMemory:
    """Largest resident memory of the process above that at entry, bytes; sampled every 5 ms."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self.bytes, self._start, self._done = 0, _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, _resident() - self._start)

    def __exit__(self, *error: object) -> None:
        self.bytes = max(self.bytes, _resident() - self._start)
        self._done.set()
        self._thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(work: Any, repeats: int) -> tuple[float, Any]:
    """Median seconds of some runs, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        result = None
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def scipy_product(histories: Histories) -> sparse.csr_array:
    """The exact graph as scipy gives it: A^T A of the user-item matrix."""
    ones = np.ones(len(histories.items), dtype=np.float32)
    shape = (histories.n_users, histories.n_items)
    matrix = sparse.csr_array((ones, histories.items, histories.indptr), shape=shape, copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return sparse.csr_array(matrix.T.tocsr() @ matrix)


def scaling(logs: list[int]) -> dict[str, Any]:
    rows = []
    for size in logs:
        histories = synthetic(size, max(size // 20, 1000))
        with PeakMemory() as memory:
            seconds, graph = timed(lambda histories=histories: build_graph(histories), 3 if size < 10**7 else 1)
        rows.append(
            {
                "interactions": len(histories.items),
                "items": histories.n_items,
                "edges": len(graph),
                "pairs": int((histories.lengths * (histories.lengths - 1) // 2).sum()),
                "seconds": round(seconds, 4),
                "bytes_per_edge": round(memory.bytes / len(graph), 1),
            }
        )
        print(rows[-1], flush=True)
        del graph
    sizes, seconds = ([row[name] for row in rows] for name in ("interactions", "seconds"))
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    most = max(row["bytes_per_edge"] for row in rows)
    return {"sizes": rows, "loglog_slope": round(slope, 3), "bytes_per_edge": most}


def against_scipy(n_interactions: int, n_items: int, length: int, config: CoengagementConfig) -> dict[str, Any]:
    """Both on one log; the two are timed in turn, so that a busy machine is busy for both."""
    histories = synthetic(n_interactions, n_items, length=length)
    ours, theirs = [], []
    for _ in range(3):
        seconds, graph = timed(lambda: build_graph(histories, config), 1)
        ours.append(seconds)
        seconds, product = timed(lambda: scipy_product(histories), 1)
        theirs.append(seconds)
    exact_edges = (product.nnz - histories.n_items) // 2
    del product
    return {
        "interactions": len(histories.items),
        "items": n_items,
        "history": length,
        "seconds": round(statistics.median(ours), 3),
        "seconds_scipy": round(statistics.median(theirs), 3),
        "speedup_vs_scipy": round(statistics.median(theirs) / statistics.median(ours), 2),
        "edges": len(graph),
        "edges_exact_about": int(exact_edges),
        "epsilon": round(measured_epsilon(graph, histories), 4),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    build_graph(synthetic(2000, 1000))  # compiles, or reads the compiled loops from their cache
    build_graph(synthetic(2000, 1000), CoengagementConfig(samples_per_user=10))
    build_graph(synthetic(200_000, 1000, length=200))
    scaled = scaling([10**power for power in range(5, options.largest + 1)])
    by_theorem = against_scipy(
        options.interactions, options.items, 200, CoengagementConfig(weighting="count", epsilon=0.5)
    )
    print(by_theorem, flush=True)
    long = against_scipy(options.interactions, options.items, 2000, CoengagementConfig(weighting="count", epsilon=0.5))
    print(long, flush=True)
    exact = against_scipy(1_000_000, options.items, 200, CoengagementConfig(weighting="count", by_degree=False))
    return {
        **scaled,
        "speedup_vs_scipy": by_theorem["speedup_vs_scipy"],
        "epsilon": by_theorem["epsilon"],
        "histories_of_200": by_theorem,
        "histories_of_2000": long,
        "histories_of_200_exact": exact,
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--largest", type=int, default=7, help="logs of 10^5 up to 10^LARGEST interactions")
    parser.add_argument("--interactions", type=int, default=4_000_000, help="size of the log that scipy is timed on")
    parser.add_argument("--items", type=int, default=20_000, help="its catalogue")


if __name__ == "__main__":
    main(run, arguments)
