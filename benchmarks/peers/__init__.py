"""Models of two maintained libraries, trained on our train split in environments of their own, ranked by our evaluator.

The workers import this package with the Python of a library, which has none of our dependencies: it imports only the
standard library here, and what runs on our side inside `run`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.peers.settings import MODELS


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample", help="a dataset of datasets.toml")
    parser.add_argument("--library", required=True, choices=sorted(MODELS), help="the peer")
    parser.add_argument("--model", required=True, help="; ".join(f"{k}: {', '.join(v)}" for k, v in MODELS.items()))
    parser.add_argument("--epochs", type=int, default=20, help="most passes over the train split")
    parser.add_argument("--seed", type=int, default=0, help="of the peer")
    parser.add_argument("--batch-size", type=int, help="of the peer; its default unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for the peer")
    environment_argument(parser)


def environment_argument(parser: argparse.ArgumentParser, library: str = "") -> None:
    """Add `--python-env`, or `--python-env-LIBRARY` where a benchmark runs several."""
    name = f"--python-env-{library}" if library else "--python-env"
    parser.add_argument(
        name, type=Path, metavar="DIR", help="a virtual environment that has the library; one is made unless given"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.peers.comparison import compare
    from recsys_dagster.errors import RecsysError

    try:
        return compare(options)
    except RecsysError as error:
        raise SystemExit(f"error: {error}") from None
