"""A trained model on disk: a directory of model.safetensors, config.json and training.parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file


def save_model(
    directory: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    shape: dict[str, int],
    state: dict[str, torch.Tensor],
    history: pd.DataFrame,
) -> None:
    """Write the three files.

    Args:
        directory: made if absent.
        name: the model's key in `recsys_dagster.models`.
        config: its settings.
        shape: integers that its constructor needs beside them (n_items, n_users, ...).
        state: its tensors.
        history: the training curve.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}
    save_file(tensors, directory / "model.safetensors")
    text = json.dumps({"model": name, "config": dict(config), "shape": shape}, indent=2)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    history.to_parquet(directory / "training.parquet", index=False)


def read_config(directory: Path) -> dict[str, Any]:
    """The contents of config.json: model, config, shape."""
    contents: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return contents


def read_state(directory: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors."""
    state: dict[str, torch.Tensor] = load_file(directory / "model.safetensors", device=device)
    return state
