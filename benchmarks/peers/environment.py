"""The environments of the peers: made once, with pinned versions, or given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.settings import REQUIREMENTS
from recsys_dagster.errors import RecsysError
from resources.storage import home

STAMP = "installed.txt"
"""Written last: an environment without it, or with other pins, is made anew."""


def python_of(library: str, given: Path | None = None) -> Path:
    """The Python of an environment that has a library.

    Args:
        library: key of `settings.REQUIREMENTS`.
        given: a virtual environment to take as it is; otherwise one is made under RECSYS_HOME/peers and kept.

    Raises:
        RecsysError: it cannot be made (no network, say), or it lacks the library.
    """
    if given is not None:
        return checked(library, given)
    folder = home() / "peers" / library
    pins = "\n".join(REQUIREMENTS[library]) + "\n"
    stamp = folder / STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        make(library, folder)
        stamp.write_text(pins, encoding="utf-8")
    return interpreter(folder)


def make(library: str, folder: Path, requirements: tuple[str, ...] | None = None) -> None:
    """Make a virtual environment and install a library's pins into it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"making an environment for {library} in {folder} (once, some minutes)", file=sys.stderr, flush=True)
    pip = [str(interpreter(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *(requirements or REQUIREMENTS[library])]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise RecsysError(
                f"The environment for {library} cannot be made: {last_error(done.stderr)}",
                mend="check the network and that Python is 3.11 (RecBole's requirements have no later build), or name "
                "an environment that has the library with --python-env DIR.",
            )


def checked(library: str, folder: Path) -> Path:
    """The Python of an environment that somebody else made."""
    python = interpreter(folder)
    mend = f"python -m venv DIR && DIR/bin/pip install {' '.join(REQUIREMENTS[library])}, then --python-env DIR."
    if not python.exists():
        raise RecsysError(f"{folder} is no virtual environment: {python} is missing.", mend=mend)
    code = f"import importlib.metadata as m; print(m.version({library!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RecsysError(f"{folder} has no {library} ({last_error(found.stderr)}).", mend=mend)
    return python


def interpreter(folder: Path) -> Path:
    """Where an environment has its Python."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def last_error(text: str) -> str:
    """The line that says most: the last one that names an error, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR") or "Error:" in line]
    return (errors or lines or ["no message"])[-1]
