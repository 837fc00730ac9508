"""Backfills from the command line: one run a partition, each in a process of its own, and what is left to do.

A partition that fails, or whose process is killed, does not stop the others. The plan of a backfill is kept under
RECSYS_HOME/backfills, and its runs bear its id as a tag, so that `resume` knows what has succeeded.
"""

from __future__ import annotations

import json
import multiprocessing
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from recsys_dagster.errors import RecsysError
from recsys_dagster.runs import Outcome, execute, select_assets
from resources.files import write_atomically, write_text
from resources.instance import PROCESS_TAG, fail_dead_runs, is_alive, open_instance
from resources.storage import home

BACKFILL_TAG = "recsys/backfill"
"""Run tag: the id of the backfill."""

PRIORITY = -10
"""Behind nights and what people launch in the UI, where all wait for the same pool."""


@dataclass(frozen=True)
class Plan:
    """What a backfill is to do.

    Attributes:
        id: sorts by time.
        datasets: partitions, in the order in which they are started.
        select: assets and groups; everything if empty.
        configs: run config of each dataset.
        priority: the larger, the earlier a step gets its pool.
    """

    id: str
    datasets: list[str]
    select: list[str]
    configs: dict[str, dict[str, Any]]
    priority: int = PRIORITY


@dataclass(frozen=True)
class Result:
    """How the run of one partition ended; see `Outcome`."""

    dataset: str
    success: bool
    run_id: str | None
    errors: list[str]
    seconds: float


def new_plan(
    datasets: Sequence[str], select: Sequence[str], configs: Mapping[str, Mapping[str, Any]], priority: int
) -> Plan:
    """Write a plan down.

    Raises:
        RecsysError: something selected is neither an asset nor a group.
    """
    select_assets(select)
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    own = {dataset: dict(configs.get(dataset, {})) for dataset in datasets}
    plan = Plan(name, list(dict.fromkeys(datasets)), list(select), own, priority)
    from upath import UPath

    text = json.dumps(asdict(plan), indent=1, ensure_ascii=False)
    write_atomically(UPath(_folder() / f"{name}.json"), lambda path: write_text(path, text))
    return plan


def last_plan() -> Plan:
    """The newest backfill.

    Raises:
        RecsysError: there has been none.
    """
    plans = sorted(_folder().glob("*.json"))
    if not plans:
        raise RecsysError("there is no backfill to go on with.", mend="start one with --datasets.")
    return Plan(**json.loads(plans[-1].read_text(encoding="utf-8")))


def _folder() -> Path:
    return home() / "backfills"


def left_to_do(instance: dg.DagsterInstance, plan: Plan) -> list[str]:
    """The partitions of a plan that have not succeeded yet.

    Raises:
        RecsysError: another process is still at work on the plan.
    """
    runs = instance.get_runs(filters=dg.RunsFilter(tags={BACKFILL_TAG: plan.id}))
    for run in runs:
        mark = run.tags.get(PROCESS_TAG, "")
        if not run.is_finished and mark and is_alive(mark) is not False:
            pid, _, machine = mark.split(":", 2)
            raise RecsysError(
                f"process {pid} on {machine} is still at work on {run.tags['recsys/dataset']} in this backfill.",
                mend="wait until it is done, or stop it; if that machine is gone, terminate the run in the UI.",
            )
    done = {run.tags["recsys/dataset"] for run in runs if run.status == dg.DagsterRunStatus.SUCCESS}
    return [dataset for dataset in plan.datasets if dataset not in done]


def run_plan(plan: Plan, datasets: Sequence[str], console: Console, *, parallel: int = 1) -> list[Result]:
    """Run partitions of a plan, so many at a time, and wait for all of them.

    The pools `gpu` and `llm` let one step through at a time, whichever process it is in.

    Returns:
        One result a partition, in the order in which they ended.
    """
    # Children are forked from a process that has imported everything and started nothing: quick, and free of threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recsys_dagster.runs"])
    waiting, results = list(datasets), []
    running: dict[Connection, tuple[str, Any, float]] = {}
    width = max(map(len, datasets), default=0)
    while waiting or running:
        while waiting and len(running) < parallel:
            dataset = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(plan, dataset, theirs, console.stderr, width), name=dataset)
            child.start()
            theirs.close()
            running[ours] = (dataset, child, time.perf_counter())
        for pipe in wait(list(running)):
            assert isinstance(pipe, Connection)
            dataset, child, started = running.pop(pipe)
            result = _received(pipe, dataset, child, started)
            state = "[green]finished[/]" if result.success else "[red]failed[/]"
            console.print(f"[bold]{dataset}[/] {state} in {result.seconds:.0f} s", highlight=False)
            results.append(result)
    return results


def _received(pipe: Connection, dataset: str, child: Any, started: float) -> Result:
    try:
        outcome = Result(dataset, **json.loads(pipe.recv_bytes()))
        child.join()
    except EOFError:  # it died without a word
        child.join()
        with open_instance() as instance:
            fail_dead_runs(instance)
        how = f"killed by signal {-child.exitcode}" if child.exitcode < 0 else f"ended with code {child.exitcode}"
        hint = " (out of memory? try --parallel 1)" if child.exitcode == -9 else ""
        outcome = Result(dataset, False, None, [f"its process was {how}{hint}"], time.perf_counter() - started)
    finally:
        pipe.close()
    return outcome


def _child(plan: Plan, dataset: str, pipe: Connection, stderr: bool, width: int) -> None:
    console = Console(soft_wrap=True, stderr=stderr)
    tags = {BACKFILL_TAG: plan.id, "dagster/priority": str(plan.priority)}
    with open_instance() as instance:
        try:
            outcome = execute(
                instance, dataset, console,
                select=plan.select, config=plan.configs[dataset], tags=tags, label=f"{dataset:<{width}}",
            )  # fmt: skip
        except RecsysError as error:
            outcome = Outcome(False, None, [str(error)], 0.0)
    pipe.send_bytes(json.dumps(asdict(outcome)).encode())
    pipe.close()
