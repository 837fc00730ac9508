"""The stages over Ray against processes of this machine, and the memory of the process that hands the work out.

The co-engagement graph of a synthetic log, from the stored log to the stored table, with two workers on either engine,
in turn; each engine's workers are warm. `overhead` is the ratio of the medians. `driver_mb` is the peak resident memory
of a process of its own that does nothing but this, once for each size of the log; the log lies in the store before.
Smaller logs go through cliques, interest clusters, evaluation and recommendations in the same way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from upath import UPath

from assets.tables import conform
from benchmarks.coengagement import synthetic
from benchmarks.common import main
from recsys_dagster.data.histories import read_histories
from recsys_dagster.data.prepare import sample_negatives
from recsys_dagster.evaluation.ranges import UserData, evaluate_models, recommend_all
from recsys_dagster.g2rec.graph_parts import LogGroups, build_graph_parts
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.larmi.clique_parts import build_clique_parts
from recsys_dagster.larmi.cliques import CliqueConfig, CliqueInputs
from recsys_dagster.larmi.cluster_parts import LocalWorkers, cluster_user_parts
from recsys_dagster.larmi.local_clusterer import LocalClustererConfig
from recsys_dagster.models import StoredModel
from resources.compute import ComputeResource
from resources.stored_parts import StoredParts
from resources.stored_table import PartedTable, StoredTable

ENGINES = {"local": ComputeResource(processes=2), "ray": ComputeResource(engine="ray", processes=2)}


class Log:
    """A synthetic log in a folder, and its stages from the stored log to a stored table.

    Args:
        folder: holds the log, or gets it.
        size: interactions; a catalogue of a twentieth of it.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.n_items = folder, max(size // 20, 1_000)
        path = folder / f"interactions-{size}.parquet"
        if not path.exists():
            histories = synthetic(size, self.n_items)
            users = histories.users
            place = np.arange(len(users)) - np.repeat(histories.indptr[:-1], histories.lengths)
            split = np.maximum(place - np.repeat(histories.lengths, histories.lengths) + 3, 0)
            table = pd.DataFrame({"user_id": users, "item_id": histories.items, "split": split.astype(np.int8)})
            table.to_parquet(path, index=False, compression="zstd")
        self.log = StoredTable(UPath(path))
        self.n_users = self.log.n_users()

    def stored(self, table: str, work: Callable[[StoredParts], list[Any]]) -> Path:
        """Let `work` write the parts of a table, and join them as the IO manager does."""
        output = StoredParts(UPath(self.folder / "parts" / table), partial(conform, table=table))
        PartedTable(output, work(output)).write(self.folder / f"{table}.parquet")
        output.remove()
        return self.folder / f"{table}.parquet"

    def graph(self, engine: Any) -> Path:
        """`coengagement_graph`."""
        groups = LogGroups(self.log, self.n_users, self.n_items, CoengagementConfig())
        return self.stored("coengagement_graph", lambda output: build_graph_parts(groups, 0, engine, output)[0])

    def cliques(self, engine: Any) -> Path:
        """`user_cliques`."""
        sizes = self.n_users, self.n_items
        return self.stored(
            "user_cliques",
            lambda output: build_clique_parts(self.log, *sizes, CliqueConfig(max_reads=10_000), engine, output)[0],
        )

    def clusters(self, engine: Any) -> Path:
        """`user_clusters`, by the local clusterer, over made-up titles of four of a thousand words."""
        texts = self.texts()
        items = pd.DataFrame({"item_id": range(self.n_items), "title": texts, "text": texts})
        workers = LocalWorkers(LocalClustererConfig())
        return self.stored(
            "user_clusters",
            lambda output: cluster_user_parts(self.log, self.n_users, items, workers, engine, output)[0],
        )

    def texts(self) -> list[str]:
        """A title an item."""
        words = np.random.default_rng(0).integers(0, 1_000, (self.n_items, 4))
        return [" ".join(f"word{word:03}" for word in row) for row in words.tolist()]

    def model(self) -> StoredModel:
        """A SASRec of random weights."""
        from recsys_dagster.baselines.config import SASRecConfig
        from recsys_dagster.baselines.sasrec import SASRec
        from recsys_dagster.training.artifact import save_model

        config, shape = SASRecConfig(), {"n_items": self.n_items, "max_length": 50}
        if not (self.folder / "sasrec").exists():
            save_model(
                self.folder / "sasrec", name="sasrec", config=config.model_dump(), shape=shape,
                state=SASRec(config, **shape).learned_state(), history=pd.DataFrame({"epoch": [0]}),
            )  # fmt: skip
        return StoredModel.at(self.folder / "sasrec", "cpu")

    def evaluation(self, engine: Any) -> Path:
        """`user_metrics` of one model."""
        negatives = self.folder / "negatives.parquet"
        if not negatives.exists():
            sample_negatives(self.log.read(), self.n_users, self.n_items).to_parquet(negatives, index=False)
        names = {"dataset": "synthetic", "model": "sasrec", "protocol": "leave_one_out", "seed": 0}
        data = UserData.of(self.log, self.n_users, self.n_items, 50, engine)
        stored = StoredTable(UPath(negatives))
        return self.stored(
            "user_metrics",
            lambda output: evaluate_models(
                [(self.model(), names)], data, stored, ks=[10], batch_size=256, engine=engine, output=output
            )[1],
        )

    def recommendations(self, engine: Any) -> Path:
        """`recommendations` of one model."""
        data = UserData.of(self.log, self.n_users, self.n_items, 50, engine)
        return self.stored(
            "recommendations",
            lambda output: (
                recommend_all([("sasrec", self.model())], data, n=20, engine=engine, output=output)["sasrec"].parts
            ),
        )


def coefficients(log: Log, engine: Any) -> dict[str, float]:
    """Bytes on disk, in the shuffle and in shared memory, each for one of what it grows with."""
    groups = LogGroups(log.log, log.n_users, log.n_items, CoengagementConfig())
    lengths = np.concatenate([groups.read(part).lengths for part in groups.ranges()])
    rows, pairs = len(log.log), float((lengths * (lengths - 1) // 2).sum())
    shuffled = 0

    def count(output: StoredParts) -> list[Any]:
        nonlocal shuffled
        parts = build_graph_parts(groups, 0, engine, output)[0]
        shuffled = sum(path.stat().st_size for path in Path(output.folder.path).glob("*.arrow"))
        return parts

    graph = log.stored("coengagement_graph", count)
    config = CliqueConfig()
    index = CliqueInputs.of(read_histories(log.log, 0, log.n_users, n_items=log.n_items), config).arrays()
    texts = LocalWorkers(LocalClustererConfig()).arrays(log.texts(), log.texts())
    cliques = log.cliques(engine)
    return {
        "pairs_an_interaction": pairs / rows,
        "log_bytes_an_interaction": Path(log.log.path.path).stat().st_size / rows,
        "shuffle_bytes_a_pair": shuffled / pairs,
        "edges_a_pair": len(StoredTable(UPath(graph))) / pairs,
        "stored_bytes_an_edge": graph.stat().st_size / len(StoredTable(UPath(graph))),
        "shared_index_bytes_an_interaction": sum(array.nbytes for array in index.values()) / rows,
        "shared_text_bytes_an_item": sum(array.nbytes for array in texts.values()) / log.n_items,
        "stored_clique_bytes_a_user": cliques.stat().st_size / log.n_users,
    }


STAGES = ("cliques", "clusters", "evaluation", "recommendations")


PARTS = ("graph", "stages", "memory", "coefficients")


def rounds(log: Log, stage: str, engines: dict[str, Any], n: int) -> dict[str, Any]:
    """Seconds of a stage on both engines, in turn, and whether the tables are the same."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    tables: dict[str, pd.DataFrame] = {}
    for _ in range(n):
        for name, engine in engines.items():
            began = time.perf_counter()
            path = getattr(log, stage)(engine)
            seconds[name].append(time.perf_counter() - began)
            if len(tables) < len(engines):
                tables[name] = pd.read_parquet(path)
    pd.testing.assert_frame_equal(*tables.values(), check_exact=True)
    rows = len(tables["ray"])
    medians = {f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()}
    overhead = statistics.median(seconds["ray"]) / statistics.median(seconds["local"])
    return {**medians, "overhead": round(overhead, 3), "rows": rows}


def driver_mb(folder: Path, size: int, engine: str) -> float:
    """Peak memory of a process that has a graph of this size made, MiB."""
    code = (
        "import sys, json; from pathlib import Path; from recsys_dagster.memory import peak_memory_mb\n"
        "from benchmarks.ray import ENGINES, Log\n"
        "log = Log(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "with ENGINES[sys.argv[3]].open() as engine: log.graph(engine)\n"
        "print(json.dumps(peak_memory_mb()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(size), engine], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="recsys-ray-") as name:
        folder = Path(name)
        large, middle, small = (Log(folder, 10**power) for power in (options.largest, 6, options.small))
        found: dict[str, Any] = {}
        with ENGINES["local"].open() as local, ENGINES["ray"].open() as ray:
            engines = {"local": local, "ray": ray}
            if "coefficients" in options.only:
                measured = coefficients(middle, local)
                found["coefficients"] = {name: round(value, 3) for name, value in measured.items()}
                print(found["coefficients"], flush=True)
            if "graph" in options.only:
                rounds(small, "graph", engines, 1)  # workers begin, and compile what is not compiled
                found["graph"] = rounds(large, "graph", engines, options.rounds)
                found["overhead"] = found["graph"]["overhead"]
                print(found["graph"], flush=True)
            for stage in STAGES if "stages" in options.only else ():
                rounds(small, stage, engines, 1)
                found[stage] = rounds(small, stage, engines, options.rounds)
                print(stage, found[stage], flush=True)
        if "memory" in options.only:
            memory = {f"1e{power}": driver_mb(folder, 10**power, "ray") for power in (6, options.largest)}
            found["driver_mb"] = {size: round(value, 1) for size, value in memory.items()}
            first, last = memory.values()
            found["driver_growth"] = round(last / first, 3)
        return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--largest", type=int, default=7, help="the graph of 10^LARGEST interactions")
    parser.add_argument("--small", type=int, default=5, help="the other stages of 10^SMALL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)


if __name__ == "__main__":
    main(run, arguments)
