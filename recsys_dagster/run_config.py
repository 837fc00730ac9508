"""Run configs in YAML: reading them, and leaving out what a selection of assets has no use for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recsys_dagster.errors import RecsysError


def read_config(path: Path | None) -> dict[str, Any]:
    """A Dagster run config in YAML; empty without a path.

    Raises:
        RecsysError: no such file, no YAML, or no mapping.
    """
    if path is None:
        return {}
    import yaml

    mend = "expected a mapping such as {ops: {sasrec_model: {config: {epochs: 5}}}}."
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise RecsysError(f"run config {path}: there is no such file.", mend="name an existing YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecsysError(f"run config {path} is not valid YAML: {' '.join(str(error).split())}.", mend=mend) from None
    if not isinstance(contents, dict):
        raise RecsysError(f"run config {path} holds {type(contents).__name__}.", mend=mend)
    return contents


def relevant(config: Mapping[str, Any], steps: Mapping[Any, str], selection: Collection[Any] | None) -> dict[str, Any]:
    """Leave out settings of steps that are not selected, so that one file serves the whole lineage and parts of it.

    Args:
        config: with ``ops`` by step name.
        steps: the step that makes an asset, by asset.
        selection: the selected assets; None for all.
    """
    if selection is None or not isinstance(config.get("ops"), Mapping):
        return dict(config)
    left_out = set(steps.values()) - {steps[key] for key in selection}
    return {**config, "ops": {name: value for name, value in config["ops"].items() if name not in left_out}}
