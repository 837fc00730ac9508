"""What every benchmark shares: its arguments, the facts of the machine, and how the result is printed."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys_dagster.data.prepare import Prepared


NO_COMPUTE_LOGS = """
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
"""For `dagster.yaml`: two processes less a run, which would import Dagster to watch its output."""


def main(
    run: Callable[[argparse.Namespace], dict[str, Any]],
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: list[str] | None = None,
) -> dict[str, Any]:
    """Run a benchmark from the command line.

    Without `--json` the result is printed a line a value; with it, as one JSON object on the last line. What `run`
    prints itself comes before.

    Args:
        run: measures, and returns plain values by name.
        add_arguments: adds the benchmark's own options.
        argv: arguments; those of the command line unless given.

    Returns:
        What was printed: `benchmark`, the values of `run`, `seconds`, and `machine`.

    Raises:
        ValueError: `run` returns a value that JSON cannot hold exactly, NaN for one.
    """
    module = inspect.getmodule(run)
    name = module.__spec__.name if module is not None and module.__spec__ is not None else "benchmark"
    document = (module.__doc__ or "") if module is not None else ""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=document.strip().partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    if add_arguments is not None:
        add_arguments(parser)
    options = parser.parse_args(argv)
    started = time.perf_counter()
    values = run(options)
    seconds = round(time.perf_counter() - started, 3)
    result = {"benchmark": name.rpartition(".")[2], **values, "seconds": seconds, "machine": machine()}
    line = json.dumps(result, allow_nan=False, default=_plain)
    if options.json:
        print(line, flush=True)
    else:
        for key, value in json.loads(line).items():
            print(f"{key}: {value}")
    return result


def prepared(dataset: str) -> Prepared:
    """A dataset as the project prepares it; real ones are read from RECSYS_DATA_DIR."""
    from recsys_dagster.data.prepare import prepare
    from recsys_dagster.data.readers import read_raw
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.data.sources import data_directory
    from resources.storage import home

    spec = get_dataset(dataset)
    return prepare(read_raw(spec, data_directory(), home()), spec)


def machine() -> dict[str, Any]:
    """Facts that a figure depends on: cores, processor, accelerator, versions, and the date (UTC)."""
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _plain(value: Any) -> Any:
    """A numpy scalar or array as plain Python."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"a benchmark returned {type(value).__name__}, expected plain values")
