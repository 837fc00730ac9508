"""The language-model stage: time against the latency bound, calls, a killed run, a cached rerun, the local clusterer.

A server of our own (`benchmarks.openai_server`) answers after a fixed time, in a process of its own. The bound is what
the server's time alone takes: users / concurrency * latency. `killed_lost_calls` were in flight when a run was killed
(at most the concurrency); `resume_extra_calls` is what the next run sent beyond the users who were not answered yet.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import main, prepared
from recsys_dagster.data.histories import Histories
from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.llm.cache import AnswerCache
from recsys_dagster.larmi.llm.cache_admin import stats
from recsys_dagster.larmi.llm.openai import OpenAIClusterer
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.local_clusterer import LocalClusterer

ITEMS_PER_USER = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=5_000, help="users that the server is asked about")
    parser.add_argument("--concurrency", type=int, default=64, help="calls in flight")
    parser.add_argument("--latency-ms", type=float, default=200.0, help="time that the server takes for an answer")
    parser.add_argument("--dataset", default="sample", help="what the local clusterer is timed on")
    parser.add_argument("--ask", nargs=2, metavar=("URL", "CACHE"), help=argparse.SUPPRESS)


@contextmanager
def server(latency_ms: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.openai_server", "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def questions(url: str) -> int:
    """How many the server has been asked."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        return json.load(response)["questions"]


def ask(url: str, cache: Path, options: argparse.Namespace) -> dict[str, int | float]:
    """Ask about all users; seconds, and the statistics of the stage."""
    rng = np.random.default_rng(0)
    titles = [f"Product {k}, {rng.choice(['blue', 'red', 'green'])}, pack of {k % 12 + 1}" for k in range(2_000)]
    items = pd.DataFrame({"item_id": np.arange(len(titles)), "title": titles, "text": titles})
    users = [(user, rng.choice(len(titles), ITEMS_PER_USER, replace=False)) for user in range(options.users)]
    settings = LlmSettings(
        backend="openai", base_url=url, model="benchmark", api_key_env="", concurrency=options.concurrency
    )
    started = time.perf_counter()
    _, statistics = cluster_users(users, items, OpenAIClusterer(settings, cache))
    return {"s": time.perf_counter() - started, **statistics}


def killed_run(url: str, cache: Path, options: argparse.Namespace) -> None:
    """A run in another process, killed when the server has seen a third of the users."""
    command = [
        sys.executable, "-m", "benchmarks.llm", "--ask", url, str(cache), "--users", str(options.users),
        "--concurrency", str(options.concurrency),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while questions(url) < options.users // 3 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(options.latency_ms / 1_000)  # what was on its way has come in


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.ask:
        return ask(options.ask[0], Path(options.ask[1]), options)
    bound = options.users / options.concurrency * options.latency_ms / 1_000
    with tempfile.TemporaryDirectory() as folder, server(options.latency_ms) as url:
        ask(url, Path(folder) / "warm.sqlite", argparse.Namespace(**{**vars(options), "users": options.concurrency}))
        warm = questions(url)
        full = ask(url, Path(folder) / "full.sqlite", options)
        asked = questions(url) - warm
        again = ask(url, Path(folder) / "full.sqlite", options)
        again_asked = questions(url) - warm - asked
    with tempfile.TemporaryDirectory() as folder, server(options.latency_ms) as url:
        cache = Path(folder) / "killed.sqlite"
        killed_run(url, cache, options)
        sent = questions(url)
        with AnswerCache(cache) as answers:
            kept = stats(answers)["answers"]
        ask(url, cache, options)
        resumed = questions(url) - sent
    return {
        "users": options.users,
        "concurrency": options.concurrency,
        "latency_ms": options.latency_ms,
        "bound_s": round(bound, 3),
        "asked_s": round(full["s"], 3),
        "latency_ratio": round(full["s"] / bound, 4),
        "calls_per_user": round(asked / options.users, 4),
        "killed_after_calls": sent,
        "killed_lost_calls": sent - kept,
        "resume_extra_calls": resumed - (options.users - kept),
        "cached_rerun_s": round(again["s"], 3),
        "cached_rerun_calls": again_asked,
        "dataset": options.dataset,
        **local(options.dataset),
    }


def local(dataset: str) -> dict[str, float]:
    """Users a second of the local clusterer on a dataset, fitting the catalogue included."""
    data = prepared(dataset)
    history = Histories.from_interactions(data.interactions, n_users=len(data.users), n_items=len(data.items))
    Catalogue.from_items(data.items.head(10))
    started = time.perf_counter()
    cluster_users(history, data.items, LocalClusterer())
    seconds = time.perf_counter() - started
    return {"local_s": round(seconds, 3), "local_users_per_s": round(len(data.users) / seconds, 1)}


if __name__ == "__main__":
    main(measure, add_arguments)
