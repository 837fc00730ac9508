"""The state of an unfinished training run, as safetensors and JSON (never pickle), written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recsys_dagster.errors import disk_told
from recsys_dagster.training.distributed import rank


class Learner(Protocol):
    """A model whose learned tensors can be taken out and put back."""

    def learned_state(self) -> dict[str, torch.Tensor]:
        """The learned tensors by name."""
        ...

    def load_learned_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put them back."""
        ...


@dataclass
class State:
    """Where a run stands after some whole epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = float("-inf")
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def record(self, row: dict[str, float], model: Learner) -> None:
        """Take in the figures of one more epoch and, if it is the best so far, its weights."""
        self.epoch += 1
        self.history.append(row)
        if row["validation_recall"] > self.best_value:
            self.best_epoch, self.best_value = self.epoch, row["validation_recall"]
            self.best_weights = {name: tensor.detach().clone() for name, tensor in model.learned_state().items()}


class Checkpoint:
    """Keeps the last whole epoch of one run under `directory`.

    A checkpoint of other settings (another `fingerprint`) or another version of the model, or one that cannot be read,
    is left aside: training then starts anew.
    """

    def __init__(self, directory: Path | None, fingerprint: Mapping[str, Any]) -> None:
        self.directory = directory
        text = json.dumps(fingerprint, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    @property
    def _file(self) -> Path | None:
        return None if self.directory is None else self.directory / "last.safetensors"

    def save(self, model: Learner, optimiser: torch.optim.Optimizer, state: State) -> None:
        """Write everything that the next epoch needs; where several processes train together, the first one does."""
        if self._file is None or rank() > 0:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"model/{k}": v for k, v in model.learned_state().items()}
        tensors |= {f"best/{k}": v for k, v in state.best_weights.items()}
        for index, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{k}": v for k, v in values.items()}
        facts = {
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_value": state.best_value,
            "history": state.history,
            "fingerprint": self.fingerprint,
        }
        # contiguous copies: safetensors refuses tensors that share memory
        copies = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        beside = self._file.with_suffix(f".{os.getpid()}.tmp")
        try:
            with disk_told(self._file):
                save_file(copies, beside, metadata={"state": json.dumps(facts)})
                beside.replace(self._file)
        finally:
            beside.unlink(missing_ok=True)

    def resume(self, model: Learner, optimiser: torch.optim.Optimizer) -> State:
        """Load the last whole epoch into `model` and `optimiser`; a fresh state where there is none."""
        if self._file is None or not self._file.exists():
            return State()
        try:
            with safe_open(self._file, framework="pt") as stored:
                facts = json.loads((stored.metadata() or {})["state"])
                if facts.pop("fingerprint") != self.fingerprint:
                    return State()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
            return State()
        shapes = {name: tensor.shape for name, tensor in _under("model/", tensors).items()}
        if shapes != {name: tensor.shape for name, tensor in model.learned_state().items()}:
            return State()  # of another version of the model
        model.load_learned_state(_under("model/", tensors))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under("optimiser/", tensors).items():
            index, key = name.split("/", 1)
            moments.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        return State(**facts, best_weights=_under("best/", tensors))

    def clear(self) -> None:
        """Forget the run: it is done."""
        if self.directory is not None and rank() == 0:
            shutil.rmtree(self.directory, ignore_errors=True)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
