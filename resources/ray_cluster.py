"""Work spread over a Ray cluster. Ray is an optional extra: it is imported when an engine is made, and not before."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

RETRIES = 8
"""Times that a part is begun again when its worker or its node dies; an error of the work itself is raised at once."""

_loaded: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
"""What this worker has open of the object store; two, so that what a stage no longer needs can be given back."""


class RayCluster:
    """An engine (`recsys_dagster.parallel.Engine`) of Ray tasks, one core each.

    Shared arrays lie in Ray's object store, once on each machine; results are small and come back to this process.

    Args:
        address: ``host:port`` of a running cluster, ``auto`` for the one on this machine; empty starts one on this
            machine, for this process, that listens on the loopback address only and has no dashboard.
        processes: cores of a cluster that is started here.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: no cluster answers at the address.
    """

    def __init__(self, address: str, processes: int) -> None:
        self._ray = _imported(address)
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address, processes)
        self.workers = max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        # Tasks of one core each; numba's and torch's threads are held to it in the worker.
        self._call = self._ray.remote(max_retries=RETRIES, num_cpus=1)(_call)
        self._make = self._ray.remote(max_retries=RETRIES, num_cpus=1)(_make)

    def _connect(self, address: str, processes: int) -> None:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if not address:
            # Ray's workers are as nice as 15 by default, to keep a cluster's machines usable; here they are the work.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # "local", or Ray would take part in whatever cluster runs on this machine.
            self._ray.init(address="local", num_cpus=processes, include_dashboard=False, **settings)
            return
        try:
            self._ray.init(address=address, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConnectionError(
                f"compute.address is {address!r}, and no Ray cluster of this version answers there "
                f"({' '.join(str(error).split())[:300]}). To mend: start one (`ray start --head`), or name its address."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own:
            self._ray.shutdown()

    def share(self, make: Callable[..., Mapping[str, Any]], *arguments: Any) -> Any:
        """Let one task make the arrays; they stay in the object store, and are made again where they are lost."""
        made = self._make.remote(make, arguments)
        self._finished(made)
        return made

    def map(
        self, work: Callable[..., Any], parts: Iterable[Any], *shared: Any, beside: bool = False, gpu: bool = False
    ) -> Iterator[Any]:
        """``work(part, *shared)`` for every part, results in order; see `recsys_dagster.parallel.Engine.map`."""
        call = self._call.options(num_gpus=1) if gpu else self._call
        if beside:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            node = self._ray.get_runtime_context().get_node_id()
            call = call.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        begun: deque[Any] = deque()
        for part in parts:
            if len(begun) == 4 * self.workers:
                yield self._result(begun.popleft())
            # In a list, so that the worker opens them itself, and keeps them open for its next part.
            begun.append(call.remote(work, part, list(shared)))
        while begun:
            yield self._result(begun.popleft())

    def _finished(self, made: Any) -> None:
        """Wait for an object without fetching it here; an error of the work is raised."""
        self._ray.wait([made], fetch_local=False)
        self._result(self._call.remote(_nothing, None, [made]))

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _imported(address: str) -> Any:
    host = address.removeprefix("ray://").rpartition(":")[0]
    if not address or _is_loopback(host):
        # Ray takes a loopback address for the machine's own one unless it is told that the cluster is this machine.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ImportError(
            "compute.engine is 'ray', but Ray is not installed. To mend: pip install 'recsys-dagster[ray]', or set "
            "compute.engine to local."
        ) from None
    return ray


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _make(make: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...]) -> Mapping[str, Any]:
    os.environ["RECSYS_THREADS"] = "1"
    return make(*arguments)


def _call(work: Callable[..., Any], part: Any, shared: list[Any]) -> Any:
    os.environ["RECSYS_THREADS"] = "1"
    return work(part, *(_load(reference) for reference in shared))


def _nothing(part: None, made: Mapping[str, Any]) -> None:
    """Open what was made, so that an error in its making is raised."""


def _load(reference: Any) -> Mapping[str, Any]:
    import ray

    name = reference.hex()
    if name not in _loaded:
        while len(_loaded) > 1:
            _loaded.popitem(last=False)
        _loaded[name] = ray.get(reference)
    return _loaded[name]
