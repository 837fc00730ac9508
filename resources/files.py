"""Files that are whole or not there: how the store writes, how it publishes several at once, how it reads.

A local write goes to a hidden file beside its target, which is then renamed over it; a remote one is finished locally
first and then put as one object. The tables of one step are all written before the first of them is published, under a
journal: a process that is killed on the way leaves either none of them new, or a journal by which the next reader ends
the work.
"""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_dagster.errors import DamagedFileError, disk_told

if TYPE_CHECKING:
    from upath import UPath

JOURNALS = ".publishing"
"""Folder of the journals, in the root of the store."""


def as_local(path: "UPath") -> Path | None:
    """The plain local path, or None where `path` lies in an object store."""
    return Path(path.path).absolute() if path.protocol in ("", "file", "local") else None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8."""
    path.write_text(text, encoding="utf-8")


def write_atomically(path: "UPath", write: Callable[[Path], None]) -> None:
    """Let `write` fill a local file, then publish it as `path` in one step.

    Args:
        path: target, local or remote; its folder is made.
        write: writes the whole content to the local path that it is given.

    Raises:
        RecsysError: the disk is full.
    """
    if as_local(path) is None:
        _put(path, write)
    else:
        _rename(stage(path, write), path)


def stage(path: "UPath", write: Callable[[Path], None]) -> "UPath":
    """Write a whole hidden file beside `path`, to be published later; what a killed writer left there is removed.

    Only one process may write a target at a time (see `resources.lock`).
    """
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    for left in path.parent.glob(f".{path.name}.*.part"):
        left.unlink(missing_ok=True)
    local = as_local(beside)
    if local is None:
        _put(beside, write)
        return beside
    try:
        with disk_told(path):
            local.parent.mkdir(parents=True, exist_ok=True)
            write(local)
            with local.open("rb") as written:
                os.fsync(written.fileno())
    except BaseException:
        local.unlink(missing_ok=True)
        raise
    return beside


def _put(path: "UPath", write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        with disk_told(local):
            write(local)
        path.fs.put_file(str(local), path.path)


def _rename(source: "UPath", target: "UPath") -> None:
    local, there = as_local(source), as_local(target)
    if local is not None and there is not None:
        local.replace(there)
    else:
        target.fs.mv(source.path, target.path)


def read_whole(path: "UPath") -> bytes:
    """All bytes of a file at one moment, also where it is replaced meanwhile."""
    return bytes(path.fs.cat_file(path.path))


def publish(base: "UPath", partition: str, staged: Mapping["UPath", "UPath"]) -> None:
    """Publish staged files (targets to sources) together: from the journal on, all of them count as written.

    Args:
        base: root of the store, in which all of them lie.
        partition: whose readers shall end the work if this process cannot.
        staged: from `stage`.
    """
    journal = base / JOURNALS / partition / f"{uuid.uuid4().hex[:8]}.json"
    names = {_within(base, target): _within(base, source) for target, source in staged.items()}
    write_atomically(journal, lambda local: write_text(local, json.dumps(names)))
    _follow(base, journal)


def finish_publishing(base: "UPath", partition: str) -> None:
    """End what a killed process had begun to publish of a partition; several may try at once."""
    folder = base / JOURNALS / partition
    if folder.exists():
        for journal in sorted(folder.iterdir(), key=str):
            if journal.suffix == ".json":
                _follow(base, journal)


def _follow(base: "UPath", journal: "UPath") -> None:
    try:
        names = json.loads(journal.read_text(encoding="utf-8"))
        for target, source in names.items():
            if (base / source).exists():  # else it is published already
                _rename(base / source, base / target)
        journal.unlink()
    except FileNotFoundError:
        if journal.exists():  # else another process was quicker with all of it
            finish_publishing(base, journal.parent.name)


def _within(base: "UPath", path: "UPath") -> str:
    return str(path.path).removeprefix(str(base.path)).lstrip("/")


@contextmanager
def reading(path: "UPath | Path") -> Iterator[None]:
    """Name the stored file ``<asset>/<partition>...`` that cannot be read, and say how to make it anew.

    Raises:
        DamagedFileError: what is in the block raised an error of decoding.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (FileNotFoundError, PermissionError, ConnectionError, TimeoutError):  # nothing is known of the file itself
        raise
    except (ValueError, OSError, EOFError, SafetensorError) as error:  # pyarrow and json raise kinds of ValueError
        what = " ".join(f"{type(error).__name__}: {error}".split())
        asset, partition = path.parent.name, path.name.partition(".")[0]
        raise DamagedFileError(
            f"{path} is damaged ({what}).",
            mend=f"recsys-dagster materialize --dataset {partition} --select {asset}",
        ) from error


def check_whole(folder: Path, stored_as: "UPath") -> None:
    """Look at every file of a stored directory as far as it takes to see that it is whole.

    Args:
        folder: local, with files of any depth.
        stored_as: ``<asset>/<partition>``, for the message.

    Raises:
        DamagedFileError: one is cut or garbled.
    """
    import pyarrow.parquet as pq
    from safetensors import safe_open

    for path in sorted(folder.rglob("*")):
        with reading(stored_as):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="np"):  # its header says how long the file has to be
                    pass
            elif path.suffix == ".parquet":
                pq.read_metadata(path)  # it stands at the end
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
