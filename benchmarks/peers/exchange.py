"""What our process and a peer's process hand each other: a folder of plain files (npz, npy, JSON), never pickle.

Both sides import this module, each with its own Python, so it needs numpy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

REQUEST, RESULT, SCORES = "request.json", "result.json", "scores.npy"
BLOCK = 256
"""Users whose scores are held at once."""


@dataclass(frozen=True)
class Request:
    """What a worker is asked for.

    Attributes:
        library: key of `settings.MODELS`.
        model: one of its models.
        n_users: users of the dataset; ids are 0 to n_users - 1.
        n_items: items, likewise.
        max_length: longest history that a model of sequences reads.
        mode: scores: train, then score every item for every user; rate: train in windows, as the parent asks.
        epochs: most passes over the train split.
        seed: of the peer.
        threads: of torch.
        batch_size: of the peer; None leaves it the library's default.
        device: cpu or cuda.
        dimension: size of item vectors.
        layers: transformer blocks, or steps over the graph.
        heads: attention heads.
    """

    library: str
    model: str
    n_users: int
    n_items: int
    max_length: int
    mode: Literal["scores", "rate"] = "scores"
    epochs: int = 20
    seed: int = 0
    threads: int = 1
    batch_size: int | None = None
    device: str = "cpu"
    dimension: int = 64
    layers: int = 2
    heads: int = 2


class Sequences(NamedTuple):
    """Item sequences of all users: user u owns ``items[indptr[u]:indptr[u + 1]]``, oldest first."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    def of(self, user: int) -> NDArray[np.int32]:
        """Items of one user."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @property
    def users(self) -> NDArray[np.int64]:
        """int64 [interactions]: the user of each interaction."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Task:
    """A request with its data. The test split is never handed over.

    Attributes:
        request: what is asked.
        train: what the peer learns from.
        validation: what it may choose its epoch by, and the end of the history that it scores after.
        folder: where all of it lies; the worker may leave files of its own.
    """

    request: Request
    train: Sequences
    validation: Sequences
    folder: Path

    def write(self) -> None:
        """Put everything into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / REQUEST).write_text(json.dumps(asdict(self.request)) + "\n", encoding="utf-8")
        for name, split in (("train", self.train), ("validation", self.validation)):
            np.savez(self.folder / f"{name}.npz", indptr=split.indptr, items=split.items)

    @classmethod
    def read(cls, folder: Path) -> Task:
        """What `write` left."""
        request = Request(**json.loads((folder / REQUEST).read_text(encoding="utf-8")))
        return cls(request, _read_split(folder / "train.npz"), _read_split(folder / "validation.npz"), folder)

    def history(self, user: int) -> NDArray[np.int32]:
        """Everything before the test split: train, then validation items."""
        return np.concatenate([self.train.of(user), self.validation.of(user)])

    def histories(self, users: NDArray[np.int64]) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
        """The latest `max_length` items of each of `users`, and how many they are."""
        cut = [self.history(user)[-self.request.max_length :] for user in users.tolist()]
        return cut, np.array([len(each) for each in cut], dtype=np.int64)


def write_scores(folder: Path, request: Request, blocks: Iterator[NDArray[np.float32]]) -> None:
    """Write float32 [n_users, n_items] from consecutive blocks of rows, holding one block at a time.

    Raises:
        ValueError: the blocks do not make up that many rows of that many items.
    """
    shape = (request.n_users, request.n_items)
    table = np.lib.format.open_memmap(folder / SCORES, mode="w+", dtype=np.float32, shape=shape)
    start = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != request.n_items or start + len(block) > request.n_users:
            raise ValueError(f"scores of shape {block.shape} after {start} rows do not fit into {shape}")
        table[start : start + len(block)] = block
        start += len(block)
    if start != request.n_users:
        raise ValueError(f"scores of {start} users, expected {request.n_users}")
    table.flush()


def read_scores(folder: Path, request: Request) -> NDArray[np.float32]:
    """The scores as a memory map, read where they are looked at.

    Raises:
        ValueError: another shape or number format than asked for.
    """
    table = np.load(folder / SCORES, mmap_mode="r", allow_pickle=False)
    if table.shape != (request.n_users, request.n_items) or table.dtype != np.float32:
        raise ValueError(
            f"{SCORES}: found {table.dtype} {table.shape}, expected float32 {(request.n_users, request.n_items)}"
        )
    scores: NDArray[np.float32] = table
    return scores


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the worker's figures."""
    (folder / RESULT).write_text(json.dumps(result) + "\n", encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any]:
    """The worker's figures."""
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result


def _read_split(path: Path) -> Sequences:
    with np.load(path, allow_pickle=False) as arrays:
        return Sequences(arrays["indptr"], arrays["items"])
