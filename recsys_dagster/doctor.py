"""What a run needs, looked at one by one: packages, GPU, keys, storage, datasets, the Dagster instance."""

from __future__ import annotations

import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recsys_dagster.errors import RecsysError
from recsys_dagster.outages import outage

if TYPE_CHECKING:
    import dagster as dg

NEEDED = ("dagster", "dagster-webserver", "torch", "torch-geometric", "transformers", "numba", "igraph", "pandas",
          "pyarrow", "openai")  # fmt: skip
OPTIONAL = {
    "peft": "pip install 'recsys-dagster[peft]' for pretrained language models as G2Rec's backbone",
    "ray": "pip install 'recsys-dagster[ray]' to compute on a Ray cluster",
    "s3fs": "pip install 'recsys-dagster[s3]' for datasets or assets at s3:// addresses",
    "dagster-postgres": "pip install 'recsys-dagster[postgres]' to keep runs in Postgres, see docs/deploy.md",
}
LITTLE_SPACE_GB = 5.0
HEARTBEAT_S = 300.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        state: "ok", "note" (something is absent that not everybody needs) or "broken".
        found: what is there.
        mend: what to do, empty if nothing.
    """

    what: str
    state: Literal["ok", "note", "broken"]
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at everything. Nothing is changed but for a file of a few bytes that is written and removed."""
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": _packages, "GPU": _gpu, "keys": _keys, "storage": _storage, "datasets": _datasets,
        "Dagster instance": _instance,
    }  # fmt: skip
    findings = []
    for what, look in looks.items():
        try:
            findings += list(look())
        except Exception as error:  # a doctor who falls ill himself is of no use
            told = error if isinstance(error, RecsysError) else outage(error)
            text = " ".join((str(told) if told else f"{type(error).__name__}: {error}").split())
            text, _, mend = text.partition(" To mend: ")
            findings.append(Finding(what, "broken", text, mend or "see docs/operations.md"))
    return findings


def _packages() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} processors")
    for name in NEEDED:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "broken", "not installed", "pip install -c constraints.txt -e .")
    for name, mend in OPTIONAL.items():
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "note", "not installed", mend)


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield Finding(f"GPU cuda:{number}", "ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "mps")
    else:
        yield Finding("GPU", "note", "none that torch sees; models train on the CPU", "see docs/gpu.md")


def _keys() -> Iterator[Finding]:
    """Whether they are there; never what they are."""
    from recsys_dagster.automation.failures import SLACK_ENVIRONMENT, WEBHOOK_ENVIRONMENT
    from resources.llm import LlmResource

    uses = {
        LlmResource.model_fields["api_key_env"].default: "for the language-model backends, see docs/llm.md",
        WEBHOOK_ENVIRONMENT: "to be told of failed runs, see docs/operations.md",
        SLACK_ENVIRONMENT: "to be told of failed runs in Slack, see docs/operations.md",
    }
    for name, use in uses.items():
        there = bool(os.environ.get(name))
        yield Finding(
            f"key {name}", "ok" if there else "note", "yes" if there else "no", "" if there else f"set it {use}"
        )


def _storage() -> Iterator[Finding]:
    from resources.storage import AssetStore, as_local, home

    place = AssetStore().base()
    probe, text = place / f".doctor-{uuid.uuid4().hex[:8]}", "recsys"
    if as_local(place) is None:
        mend = "make the bucket, or correct RECSYS_ASSETS or the keys, which have to read, write, list and delete there"
    else:
        mend = "give this user the right to write there, or set RECSYS_HOME to a folder that may be written to"
    try:
        if as_local(place) is not None:
            place.mkdir(parents=True, exist_ok=True)
        probe.write_text(text)
        whole = probe.read_text() == text
        probe.unlink()
        yield Finding("storage", "ok" if whole else "broken", f"{place} can be written to", "" if whole else mend)
    except OSError as error:
        yield Finding("storage", "broken", f"{place} cannot be written to ({error.strerror or error})", mend)
    nearest = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / 1e9
    little = free < LITTLE_SPACE_GB
    yield Finding("disk", "note" if little else "ok", f"{free:.0f} GB free at {nearest}", "make room" if little else "")


def _datasets() -> Iterator[Finding]:
    from recsys_dagster.data.registry import DatasetSpec, load_registry, registry_path
    from recsys_dagster.data.sources import data_directory, file_name, is_remote, local_places, open_source

    path, data_dir = registry_path(), data_directory()
    specs = load_registry(path)
    yield Finding("datasets.toml", "ok", f"{path.resolve()}, {len(specs)} datasets")
    if data_dir is None:
        yield Finding("RECSYS_DATA_DIR", "note", "not set", "set it to a folder with files to use before fetching any")
    else:
        yield Finding("RECSYS_DATA_DIR", "ok", str(data_dir))

    def of(spec: DatasetSpec) -> Finding:
        absent, fetched = [], []
        for role in spec.sources:
            here = next((place for place in local_places(spec, role, data_dir) if place.is_file()), None)
            if here is not None:
                try:
                    with open_source(here) as file:
                        if not file.read(1):
                            return Finding(
                                f"dataset {spec.name}", "broken", f"{here} is empty", "put the file there again"
                            )
                except (OSError, EOFError) as error:
                    return Finding(
                        f"dataset {spec.name}", "broken", f"{here} cannot be read ({error})", "mend the file"
                    )
            elif is_remote(spec.sources[role]):
                fetched.append(file_name(spec, role))
            else:
                absent.append(file_name(spec, role))
        if absent:
            mend = f"put it into RECSYS_DATA_DIR{f' ({spec.homepage})' if spec.homepage else ''}"
            return Finding(f"dataset {spec.name}", "note", f"{', '.join(absent)} is not here", mend)
        if fetched:
            return Finding(f"dataset {spec.name}", "ok", f"{', '.join(fetched)} will be fetched, or has been")
        return Finding(f"dataset {spec.name}", "ok", "readable" if spec.sources else "generated")

    for spec in specs.values():
        yield of(spec)


def _instance_storage(instance: dg.DagsterInstance) -> Finding:
    from sqlalchemy.engine import make_url

    address = getattr(instance.event_log_storage, "postgres_url", None)
    place = make_url(address).render_as_string(hide_password=True) if address else "SQLite in the same folder"
    started = time.perf_counter()
    versions = instance.event_log_storage.alembic_version()
    answered = f"{place}, answers in {(time.perf_counter() - started) * 1000:.0f} ms"
    if versions is not None and versions[0] != versions[1]:
        mend = "stop all that uses it, make a backup, then: dagster instance migrate (docs/deploy.md)"
        return Finding("instance storage", "note", f"{answered}; its tables are of an earlier Dagster", mend)
    return Finding("instance storage", "ok", answered)


def _instance() -> Iterator[Finding]:
    import dagster as dg

    folder = Path(os.environ.get("DAGSTER_HOME") or "")
    from resources.instance import open_instance, runs_without_process

    with open_instance() as instance:
        folder = Path(os.environ["DAGSTER_HOME"])
        runs = instance.get_runs_count()
        yield Finding("Dagster instance", "ok", f"{folder}, {runs} runs")
        yield _instance_storage(instance)
        dead = len(runs_without_process(instance))
        mend = "the next materialize or backfill marks them as failed and frees their pools"
        yield Finding("runs", "note" if dead else "ok", f"{dead} whose process is gone", mend if dead else "")
        limit = instance.event_log_storage.get_pool_config().default_pool_limit
        wrong = limit != 1
        yield Finding(
            "pools", "note" if wrong else "ok", f"default limit {limit}",
            f"set concurrency.pools.default_limit: 1 in {folder / 'dagster.yaml'}" if wrong else "",
        )  # fmt: skip
        beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
        alive = bool(beats) and time.time() - max(beats) < HEARTBEAT_S
        yield Finding(
            "daemon", "ok" if alive else "note", "running" if alive else "not running",
            "" if alive else "schedules, sensors and UI backfills need it: recsys-dagster ui",
        )  # fmt: skip
        waiting = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        if waiting and not alive:
            yield Finding("queue", "note", f"{waiting} runs wait for a daemon", "recsys-dagster ui")
