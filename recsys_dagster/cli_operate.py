"""The commands that operate the project: `backfill` and `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from recsys_dagster.cli_common import Json, complete_dataset, complete_selection, console, names, print_json
from recsys_dagster.errors import RecsysError
from recsys_dagster.run_config import read_config


def backfill(
    datasets: Annotated[
        list[str] | None,
        typer.Option("--datasets", "-d", help="Datasets, joined by commas.", autocompletion=complete_dataset),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select", "-s", help="Asset or group; several allowed. All without it.", autocompletion=complete_selection
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Dagster run config in YAML, for all.")] = None,
    parallel: Annotated[int, typer.Option("--parallel", "-p", min=1, help="Runs at the same time.")] = 1,
    priority: Annotated[int, typer.Option(help="Whose steps get a pool first; nights have 0.")] = -10,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last backfill: what failed or was not begun.")
    ] = False,
    as_json: Json = False,
    more: Annotated[list[str] | None, typer.Argument(help="More names after --select.", show_default=False)] = None,
) -> None:
    """Run a selection for several datasets: one run each, a failed one does not stop the others."""
    from recsys_dagster import backfill as backfills
    from recsys_dagster.data.registry import get_dataset
    from resources.instance import fail_dead_runs, open_instance

    select = _selection(select, more)
    if resume:
        if datasets or select or config:
            raise RecsysError(
                "--resume goes on with the last backfill as it was planned.",
                mend="leave --datasets, --select and --config out, or start a new backfill without --resume.",
            )
        plan = backfills.last_plan()
    else:
        if not datasets:
            raise RecsysError(
                "--datasets is missing.", mend="name datasets, as in --datasets beauty,yelp, or --resume."
            )
        specs = [get_dataset(name) for name in names(datasets)]
        given = read_config(config)
        configs = {spec.name: given if config else read_config(spec.run_config_path) for spec in specs}
        plan = backfills.new_plan(list(configs), select, configs, priority)
    out = Console(soft_wrap=True, stderr=as_json)
    with open_instance() as instance:
        fail_dead_runs(instance)
        wanted = backfills.left_to_do(instance, plan)
    what = ", ".join(plan.select) if plan.select else "the whole lineage"
    out.print(f"backfill {plan.id}: {what} for {len(wanted)} of {len(plan.datasets)} datasets", highlight=False)
    try:
        results = backfills.run_plan(plan, wanted, out, parallel=parallel)
    except KeyboardInterrupt:
        print("error: interrupted. To mend: recsys-dagster backfill --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"id": plan.id, "results": [asdict(result) for result in results]})
    failed = [result for result in results if not result.success]
    for result in failed:
        for error in result.errors or ["the run failed; see its log in the UI"]:
            print(f"error: {result.dataset}: {error}", file=sys.stderr)
    done = len(plan.datasets) - len(failed)
    out.print(f"{done} of {len(plan.datasets)} succeeded", highlight=False)
    if failed:
        out.print("mend what failed, then: recsys-dagster backfill --resume", highlight=False)
        raise typer.Exit(1)


def _selection(select: Sequence[str] | None, more: Sequence[str] | None) -> list[str]:
    if more and not select:
        raise RecsysError(f"{' '.join(more)}: no option takes it.", mend="name assets and groups after --select.")
    return [*names(select or ()), *(more or ())]


def doctor(as_json: Json = False) -> None:
    """Look at everything that a run needs, and say how to mend what is amiss. Exit code 1 if something has to be."""
    from recsys_dagster.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours = {"ok": "green", "note": "yellow", "broken": "red"}
        out = console()
        for finding in findings:
            mend = f"  [dim]to mend:[/] {escape(finding.mend)}" if finding.mend else ""
            mark = f"[{colours[finding.state]}]{finding.state:<6}[/]"
            out.print(f"{mark}  {finding.what:<28}  {escape(finding.found)}{mend}", highlight=False)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)
