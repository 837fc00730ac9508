"""Start the processes that train, or evaluate, one model together."""

from __future__ import annotations

import functools
import inspect
import logging
import logging.handlers
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from recsys_dagster.errors import RecsysError
from recsys_dagster.training.runtime import Runtime

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

POLL_S = 0.2
"""Seconds between two looks at the processes."""


def data_parallel(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function run in as many processes as its argument `runtime` has devices; with one it is called as it is.

    The processes are joined (`recsys_dagster.training.distributed`), all call the function with the same arguments but
    for the device, and what process 0 returns is returned. They are on this machine: every process gets a copy of the
    arguments. Log records of process 0 come out of the caller's loggers.

    Args:
        function: a module-level function with an argument `runtime`; its arguments and result can be pickled.

    Raises:
        RecsysError: a process was killed. What a process raises itself is raised here; the others are ended.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def started(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        call = signature.bind(*args, **kwargs)
        runtime: Runtime = call.arguments["runtime"]
        if runtime.devices == 1:
            return function(*args, **kwargs)
        from recsys_dagster.training.distributed import size

        if size() > 1:
            return function(*args, **kwargs)
        result: Result = _in_processes(started, call, runtime)
        return result

    return started


def _in_processes(function: Callable[..., Any], call: inspect.BoundArguments, runtime: Runtime) -> Any:
    import torch
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    records, answers = context.Queue(), context.Queue()
    listener = logging.handlers.QueueListener(records, _Relay())
    found: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="recsys-processes-") as folder:
        threads = max(torch.get_num_threads() // runtime.devices, 1)
        arguments = (function, call.args, call.kwargs, runtime, f"file://{folder}/rendezvous", threads)
        processes = multiprocessing.start_processes(
            _work, (*arguments, records, answers), nprocs=runtime.devices, join=False, start_method="spawn"
        )
        listener.start()
        try:
            while not processes.join(timeout=POLL_S):
                _drain(answers, found)
            _drain(answers, found)
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
            _drain(answers, found)
            raise _reason(processes.processes, found, error) from error
        finally:
            for process in processes.processes:
                if process.is_alive():
                    process.terminate()
                    process.join()
            listener.stop()
    return found[0]


def _work(
    rank: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    runtime: Runtime,
    rendezvous: str,
    threads: int,
    records: Any,
    answers: Any,
) -> None:
    """What one process does."""
    import torch

    from recsys_dagster.training import distributed

    if rank == 0:
        logger = logging.getLogger("recsys_dagster")
        logger.addHandler(logging.handlers.QueueHandler(records))
        logger.setLevel(logging.INFO)
    else:  # the others would say the same
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    torch.set_num_threads(threads)
    cuda = runtime.device.startswith("cuda")
    own = runtime.model_copy(update={"device": f"cuda:{rank}"}) if cuda else runtime
    try:
        distributed.join(rank, runtime.devices, own.device, rendezvous)
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.arguments["runtime"] = own
        result = function(*bound.args, **bound.kwargs)
        distributed.wait_for_all()
        if rank == 0:
            answers.put(result)
    except Exception as error:
        answers.put(error)
        # before the others notice that this process is gone: the first error is the one that says what happened
        answers.close()
        answers.join_thread()
        raise
    distributed.leave()


def _drain(answers: Any, found: list[Any]) -> None:
    while not answers.empty():
        found.append(answers.get())


def _reason(processes: list[Any], found: list[Any], error: Exception) -> Exception:
    """Why the processes ended: one that was killed, the first error that one of them raised, or what torch says."""
    codes = [process.exitcode or 0 for process in processes]
    killed = [rank for rank, code in enumerate(codes) if code < 0 and code != -signal.SIGTERM]
    if killed:
        return RecsysError(
            f"training process {killed[0]} of {len(processes)} was ended by {signal.Signals(-codes[killed[0]]).name}.",
            mend="look at the machine's memory; run again, and the training goes on from its last epoch.",
        )
    return next((each for each in found if isinstance(each, Exception)), error)


class _Relay(logging.Handler):
    """Hands records of another process to the loggers of this one."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
