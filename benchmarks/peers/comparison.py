"""Our side: hand the data over, start the peer's worker, rank its scores with our evaluator."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.environment import last_error, python_of
from benchmarks.peers.exchange import Request, Sequences, Task, read_result, read_scores
from benchmarks.peers.settings import MODELS
from benchmarks.ranking import load, ranked
from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.training.data import SequenceData
from resources.storage import home

ROOT = Path(__file__).parents[2]


class StoredScorer:
    """The `Scorer` of scores that lie in a file; reads the rows that are asked for.

    Args:
        table: float32 [users, items].
    """

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table, self.n_items = table, table.shape[1]

    def score(self, users: NDArray[np.int64], histories: Histories) -> torch.Tensor:
        """Scores float [len(users), N]; the peer has seen the histories when it wrote them."""
        return torch.from_numpy(np.array(self.table[users]))


def task_of(data: SequenceData, folder: Path, **request: Any) -> Task:
    """A request over the train and validation splits."""
    train, validation = (Sequences(split.indptr, split.items) for split in (data.train, data.validation))
    asked = Request(n_users=data.n_users, n_items=data.n_items, max_length=data.max_length, **request)
    return Task(asked, train, validation, folder)


def worker_command(python: Path, library: str, folder: Path) -> list[str]:
    """How a library's worker is started."""
    return [str(python), "-m", f"benchmarks.peers.{library}_worker", str(folder)]


def worker_environment() -> dict[str, str]:
    """Ours, but that the worker finds this repository alone, not our packages."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONNOUSERSITE": "1"}


def run_worker(command: list[str], task: Task) -> dict[str, Any]:
    """Hand the task over, wait for the worker, and return its figures.

    Raises:
        RecsysError: the worker failed.
    """
    task.write()
    done = subprocess.run(
        command, cwd=task.folder, env=worker_environment(), stdin=subprocess.DEVNULL,
        stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        raise failed(task.request, done.stderr)
    return read_result(task.folder)


def failed(request: Request, output: str) -> RecsysError:
    """The error of a worker that ended with one."""
    return RecsysError(
        f"The worker of {request.library} ({request.model}) failed: {last_error(output)}",
        mend="read its output above; another environment can be named with --python-env DIR.",
    )


class Rater:
    """A worker that trains in windows, as many steps at a time as it is told.

    Raises:
        RecsysError: the worker ended.
    """

    def __init__(self, command: list[str], task: Task) -> None:
        task.write()
        self.request, self.log = task.request, task.folder / "output.txt"
        self.batch_size = task.request.batch_size or 1
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, cwd=task.folder, env=worker_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip
        self._answer()  # it is ready

    def window(self, steps: int) -> dict[str, float]:
        """Train for so many steps: seconds, steps, targets, items, cells."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the worker."""
        self.process.communicate()  # an end of input is an end of windows

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            raise failed(self.request, self.log.read_text(encoding="utf-8"))
        answer: dict[str, float] = json.loads(line)
        return answer


def exchange_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder under the state directory: scores of all users and items are too much for some temporary ones."""
    place = home() / "peers" / "exchange"
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=place)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train one model of one library and rank it."""
    library, model = options.library, options.model
    if model not in MODELS[library]:
        raise RecsysError(
            f"--model {model}: {library} has no such model here.", mend=f"take one of {', '.join(MODELS[library])}."
        )
    python = python_of(library, options.python_env)
    data, tables = load(options.dataset)
    with exchange_folder() as folder:
        task = task_of(
            data, Path(folder), library=library, model=model, epochs=options.epochs, seed=options.seed,
            batch_size=options.batch_size, device=options.device, threads=torch.get_num_threads(),
        )  # fmt: skip
        result = run_worker(worker_command(python, library, task.folder), task)
        scorer = StoredScorer(read_scores(task.folder, task.request))
        metrics = ranked(scorer, data, tables.interactions, options.dataset, f"{library} {model}")
    facts = {"dataset": options.dataset, "library": library, "model": model, "most_epochs": options.epochs}
    return {**facts, "seed": options.seed, **metrics, **result}
