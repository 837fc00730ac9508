"""Who may import whom: read from the source, so that imports inside functions count too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOR = {"data", "layers", "training", "errors", "memory", "progress", "compiled", "parallel", "one_thread"}
METHODS = {"larmi", "g2rec", "baselines", "evaluation"}
TOP = {"definitions", "on_ray", "automation", "runs", "run_config", "backfill", "doctor", "outages", "cli",
       "cli_common", "cli_datasets", "cli_larmi", "cli_llm", "cli_operate", "cli_serve", "cli_ui"}  # fmt: skip
OURS_IN_RESOURCES = {"recsys_dagster.larmi.llm.settings", "recsys_dagster.errors", "recsys_dagster.memory"}
HEAVY = {"torch", "torch_geometric", "transformers"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("recsys_dagster", "assets", "resources"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str, *, at_load: bool = False) -> set[str]:
    """Full names of the modules that `name` imports; only those of the module's body if `at_load`."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    if at_load:
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    else:
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            base = node.module or ""
            assert node.level == 0, f"{name}: relative import"
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found


def room(name: str) -> str:
    """The part of `recsys_dagster` that a module stands in, or its top package elsewhere."""
    parts = name.split(".")
    return parts[1] if parts[0] == "recsys_dagster" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_directions(name):
    imported = imports_of(name)
    tops = {module.split(".")[0] for module in imported}
    rooms = {room(module) for module in imported if module.startswith("recsys_dagster.")}
    here = room(name)
    if name.startswith("resources"):
        # What of ours a resource is made of: the settings that it injects, and the error that people read.
        foreign = {module for module in imported if module.startswith(("assets", "recsys_dagster"))}
        assert not foreign - OURS_IN_RESOURCES
    elif name.startswith("assets"):
        assert not rooms & TOP
    elif here not in TOP and name != "recsys_dagster":
        assert not tops & {"dagster", "assets", "resources"}
        assert not rooms & TOP
        if here in FLOOR:
            assert rooms <= FLOOR
        elif here in METHODS:
            assert rooms <= FLOOR | {here}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith(("assets", "resources"))))
def test_assets_and_resources_load_nothing_heavy(name):
    assert not {module.split(".")[0] for module in imports_of(name, at_load=True)} & HEAVY


def test_no_import_circle():
    edges = {name: {module for module in imports_of(name) if module in MODULES} - {name} for name in MODULES}
    while free := {name for name, needs in edges.items() if not needs}:
        edges = {name: needs - free for name, needs in edges.items() if name not in free}
    assert edges == {}, "circle among these modules, or behind one"
