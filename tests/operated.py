"""A small world to operate: four shops with planted groups of items, a state directory, and a real daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.common import NO_COMPUTE_LOGS
from resources.instance import SETTINGS, WORKSPACE

ROOT = Path(__file__).parents[1]
N_ITEMS = 60
GROUPS = [list(range(first, first + 10)) for first in range(0, N_ITEMS, 10)]
"""Items that are bought together."""

MIXED = [GROUPS[k][4:] + GROUPS[(k + 1) % 6][:4] for k in range(6)]
"""Four of ten items have moved to the next group: a drift, not a collapse."""

ONE_HEAP = [list(range(N_ITEMS))]
"""Anything is bought with anything: nothing to cluster."""


def write_log(path: Path, groups: Sequence[Sequence[int]], *, users: int = 120, seed: int = 0) -> None:
    """A CSV log of users who buy seven items of one group, one in fifty bought at random. It looks a minute old."""
    rng, rows = np.random.default_rng(seed), ["user,item,timestamp"]
    for user in range(users):
        items = [int(item) for item in rng.choice(groups[user % len(groups)], 7, replace=False)]
        others = [item for item in range(N_ITEMS) if item not in items]
        for position, item in enumerate(items):
            bought = int(rng.choice(others)) if rng.random() < 0.02 else item
            rows.append(f"u{user},i{bought},{position}")
    path.write_text("\n".join(rows) + "\n")
    minute_ago = time.time() - 60
    os.utime(path, (minute_ago, minute_ago))


class World:
    """A state directory with datasets, and the commands on it. What the schedule `held` asks for waits for ever."""

    def __init__(self, folder: Path, entries: str, *, held: str = "") -> None:
        self.folder, self.home, self.registry = folder, folder / "home", folder / "datasets.toml"
        self.registry.write_text(entries)
        dagster = self.home / "dagster"
        dagster.mkdir(parents=True)
        limits = "tag_concurrency_limits:\n"
        hold = f"      - {{key: dagster/schedule_name, value: {held}, limit: 0}}\n" if held else ""
        (dagster / "dagster.yaml").write_text(SETTINGS.replace(limits, limits + hold) + NO_COMPUTE_LOGS)
        (dagster / "workspace.yaml").write_text(WORKSPACE)
        self.env = {
            **os.environ, "RECSYS_HOME": str(self.home), "DAGSTER_HOME": str(dagster),
            "RECSYS_DATASETS": str(self.registry), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.env.pop("RECSYS_DATA_DIR", None)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of the command line, as a process."""
        command = [sys.executable, "-m", "recsys_dagster.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env, cwd=self.folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    @contextmanager
    def daemon(self, **environment: str):
        """The real `dagster-daemon`, until the block ends; then it and its runs are stopped."""
        log = self.folder / "daemon.log"
        workspace = str(self.home / "dagster" / "workspace.yaml")
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace],
                env={**self.env, **environment}, cwd=self.folder, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            yield log
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def wait_for(condition: Callable[[], object], what: str, log: Path, seconds: float = 400) -> None:
    """Look twice a second until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen; the daemon says:\n{log.read_text()[-6000:]}"
        time.sleep(0.5)
