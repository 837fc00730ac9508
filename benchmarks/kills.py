"""SIGKILL at random moments of every step of the lineage; after each, one more run has to end as if nothing had been.

A state directory is filled by an undisturbed run of `sample` with little training. Each trial takes a copy of it
without what one step makes, runs that step alone through the command line, and kills the process: at a moment drawn
over the step's whole duration, or (every other round) just after it has begun to write. Then what is stored is looked
at (of the step's tables all have to be there, or none, and all else untouched), the same command is run again, and
every file is compared with the undisturbed one: byte for byte, but for the column `seconds` of training curves.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import NO_COMPUTE_LOGS, main
from recsys_dagster.runs import lineage_job, steps
from resources.files import JOURNALS
from resources.instance import SETTINGS
from resources.storage import CURRENT, AssetStore, local_directory

DATASET = "sample"
CONFIG = """
ops:
  sasrec_model: {config: {epochs: 3, learning_rate: 0.005}}
  larmi_model: {config: {epochs: 3, learning_rate: 0.005}}
  g2rec_model: {config: {epochs: 2}}
"""
READS_ITS_OWN = "interests"
"""The step that starts from what it made the last time: killed after it has published, it has one night more."""

PRELOAD = ["recsys_dagster.cli", "recsys_dagster.runs", "torch", "torch_geometric", "transformers", "numba", "sklearn",
           "matplotlib.pyplot", "igraph", "leidenalg"]  # fmt: skip
WRITING_S = 0.03
"""Seconds after the first sign of a write within which a process is killed."""

Contents = dict[str, str]


@dataclass(frozen=True)
class Step:
    """A step of the lineage, alone and undisturbed.

    Attributes:
        name: of the step.
        assets: what it makes.
        seconds: wall time of the command that runs it.
        once: digests of what it makes.
        twice: digests after a second run upon the first.
    """

    name: str
    assets: tuple[str, ...]
    seconds: float
    once: Contents
    twice: Contents


@dataclass(frozen=True)
class Trial:
    """A kill and what came of it.

    Attributes:
        step: what was killed.
        when: "any moment" or "writing".
        after_s: seconds from the start of the command to the kill.
        found: "none" or "all" of what the step makes was stored then; anything else is a fault.
        faults: what was not as it should be; empty if all was.
    """

    step: str
    when: str
    after_s: float
    found: str
    faults: list[str]


class Rig:
    """State directories, and processes that run the command line on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.config = folder, folder / "home", folder / "config.yaml"
        self.config.write_text(CONFIG)
        (self.home / "dagster").mkdir(parents=True)
        (self.home / "dagster" / "dagster.yaml").write_text(SETTINGS + NO_COMPUTE_LOGS)
        # Children are forked from a process that has imported everything: a run costs its own work and no more.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, home: Path, assets: Sequence[str]) -> multiprocessing.process.BaseProcess:
        """A process that runs `recsys-dagster materialize` for some assets."""
        arguments = ["materialize", "--dataset", DATASET, "--config", str(self.config)]
        arguments += [part for asset in assets for part in ("--select", asset)]
        child = self._context.Process(target=_command, args=(str(home), arguments))
        child.start()
        return child

    def run(self, home: Path, assets: Sequence[str]) -> float:
        """Run it to the end; returns seconds.

        Raises:
            RuntimeError: it failed.
        """
        started = time.perf_counter()
        child = self.start(home, assets)
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"{', '.join(assets)} ended with code {child.exitcode}:\n{(home / 'log').read_text()}")
        return time.perf_counter() - started

    def without(self, assets: Sequence[str]) -> Path:
        """A copy of the filled state directory that lacks some assets."""
        copy = self.folder / "trial"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.home, copy, ignore=shutil.ignore_patterns("log"))
        for asset in assets:
            shutil.rmtree(copy / "assets" / asset)
        return copy


def _command(home: str, arguments: list[str]) -> None:
    os.environ |= {"RECSYS_HOME": home, "DAGSTER_HOME": f"{home}/dagster"}
    log = os.open(f"{home}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from recsys_dagster.cli import main as command_line

    command_line(arguments)


def lineage() -> dict[str, tuple[str, ...]]:
    """The steps of `full_lineage` in an order in which they can run, with the assets that each makes."""
    made_by, found = steps(), {}
    for layer in lineage_job().asset_layer.asset_graph.toposorted_asset_keys_by_level:
        for key in sorted(layer):
            if key in lineage_job().asset_layer.selected_asset_keys:
                found.setdefault(made_by[key], []).append(key.to_user_string())
    return {name: tuple(assets) for name, assets in found.items()}


def contents(home: Path, assets: Sequence[str]) -> Contents:
    """Digest of every file of some stored assets, as their readers find them; nothing of an asset that is not there."""
    store, found = AssetStore(root=str(home / "assets")), {}
    for asset in assets:
        store.previous_table(asset, DATASET)  # as every reader does, it ends what was begun
        folder = home / "assets" / asset
        for path in sorted(folder.glob(f"{DATASET}.*")):
            found[f"{asset}/{path.name}"] = _digest(path)
        if (folder / DATASET / CURRENT).exists():
            version = local_directory(store.path(asset, DATASET, ""))
            files = sorted(path for path in version.rglob("*") if path.is_file())
            found |= {f"{asset}/{path.relative_to(version)}": _digest(path) for path in files}
    return found


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".parquet" and "seconds" in pq.read_schema(path).names:
        table = pq.read_table(path).drop_columns(["seconds"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data = sink.getvalue().to_pybytes()
    return hashlib.sha256(data).hexdigest()


def unfinished(home: Path) -> list[str]:
    """What a run leaves of which it has not ended: hidden parts, journals, staged directories, checkpoints."""
    places = [home / "assets" / JOURNALS, home / "assets" / ".staging", home / "checkpoints"]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [str(path.relative_to(home)) for path in [*files, *(home / "assets").rglob("*.part")]]


def undisturbed(rig: Rig, name: str, assets: tuple[str, ...]) -> Step:
    """Run a step alone, once or (where it reads its own) twice."""
    copy = rig.without(assets)
    seconds = rig.run(copy, assets)
    once = twice = contents(copy, assets)
    if name == READS_ITS_OWN:
        rig.run(copy, assets)
        twice = contents(copy, assets)
    return Step(name, assets, seconds, once, twice)


def kill(rig: Rig, step: Step, rest: Contents, others: Sequence[str], chance: random.Random, *, writing: bool) -> Trial:
    """Run a step, kill it, look, run it again, compare. A process that was done before the kill is tried again."""
    while True:
        copy = rig.without(step.assets)
        if writing:
            delay, seen = chance.uniform(0, WRITING_S), writes_of(copy / "assets", step.assets)
        else:
            delay, seen = chance.uniform(0, step.seconds), None
        started = time.perf_counter()
        child = rig.start(copy, step.assets)
        while seen is not None and not seen() and child.is_alive():
            time.sleep(0.0005)
        child.join(delay)
        after = time.perf_counter() - started
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        if child.exitcode == -signal.SIGKILL:
            break
    faults: list[str] = []
    found = contents(copy, step.assets)
    state = "none" if not found else "all" if found == step.once else "part"
    if state == "part":
        faults.append(f"stored after the kill: {sorted(found)} of {sorted(step.once)}")
    if contents(copy, others) != rest:
        faults.append("an asset of another step has changed")
    try:
        rig.run(copy, step.assets)
    except RuntimeError as error:
        faults.append(str(error))
    else:
        wanted, have = step.twice if state == "all" else step.once, contents(copy, step.assets)
        faults += [f"{name} differs" for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name)]
        if contents(copy, others) != rest:
            faults.append("the second run has changed an asset of another step")
        faults += [f"left behind: {name}" for name in unfinished(copy)]
    return Trial(step.name, "writing" if writing else "any moment", round(after, 2), state, faults)


def writes_of(root: Path, assets: Sequence[str]) -> Callable[[], bool]:
    """A cheap look whether a run has begun to write an asset of a step (its folder is made for that)."""
    places = [root / asset for asset in assets]
    return lambda: any(place.exists() for place in places)


def run_kills(
    folder: Path, kills: int, seed: int, names: Sequence[str] = (), log: Callable[[str], None] = print
) -> list[Trial]:
    """Kill steps in turn, so many times in all.

    Args:
        folder: empty; state directories are made in it.
        kills: number of trials.
        seed: of the moments.
        names: steps to kill; all unless given. What they need is made before.
        log: is told of each trial.
    """
    rig, chance, all_steps = Rig(folder), random.Random(seed), lineage()
    chosen = {name: all_steps[name] for name in names or all_steps}
    stored = (
        tuple(asset for assets in all_steps.values() for asset in assets)
        if not names
        else tuple(asset for name in before(chosen) for asset in all_steps[name])
    )
    seconds = rig.run(rig.home, stored)
    log(f"undisturbed: {len(stored)} assets in {seconds:.0f} s")
    whole = {asset: contents(rig.home, [asset]) for asset in stored}
    trials: list[Trial] = []
    measured: dict[str, Step] = {}
    for number in range(kills):
        name = list(chosen)[number % len(chosen)]
        if name not in measured:
            measured[name] = undisturbed(rig, name, chosen[name])
        step = measured[name]
        others = [asset for asset in stored if asset not in step.assets]
        rest = {file: digest for asset in others for file, digest in whole[asset].items()}
        trial = kill(rig, step, rest, others, chance, writing=number // len(chosen) % 2 == 1)
        trials.append(trial)
        told = "; ".join(trial.faults) or "identical after one more run"
        log(
            f"{number + 1:3} {name:24} {trial.when:10} after {trial.after_s:6.2f} of {step.seconds:.2f} s, "
            f"stored {trial.found:4}: {told}"
        )
    return trials


def before(chosen: dict[str, tuple[str, ...]]) -> list[str]:
    """The steps up to the last of some, in the order of the lineage."""
    order = list(lineage())
    return order[: max(order.index(name) for name in chosen) + 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--kills", type=int, default=48, help="processes to kill (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--steps", nargs="*", default=[], help="steps to kill (default: all of the lineage)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Kill, and count."""
    with tempfile.TemporaryDirectory() as folder:
        told = partial(print, file=sys.stderr, flush=True)
        trials = run_kills(Path(folder), options.kills, options.seed, options.steps, told)
    faulty = [trial for trial in trials if trial.faults]
    return {
        "dataset": DATASET,
        "seed": options.seed,
        "kills": len(trials),
        "steps": len({trial.step for trial in trials}),
        "while_writing": sum(trial.when == "writing" for trial in trials),
        "nothing_stored": sum(trial.found == "none" for trial in trials),
        "all_stored": sum(trial.found == "all" for trial in trials),
        "part_stored": sum(trial.found == "part" for trial in trials),
        "identical_after_one_more_run": len(trials) - len(faulty),
        "faults": [f"{trial.step}: {'; '.join(trial.faults)}" for trial in faulty],
    }


if __name__ == "__main__":
    main(run, add_arguments)
