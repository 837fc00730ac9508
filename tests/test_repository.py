"""Rules that hold for the whole repository, kept by a test."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("recsys_dagster", "assets", "resources")
BANNED = re.compile(r"^(pickle|cPickle|cloudpickle|joblib|dill|dagster\._core|dagster\._\w+)(\.|$)")
BANNED_NAMES = {"SourceAsset", "AutoMaterializePolicy", "fs_io_manager", "compute_kind"}
LONGEST_FILE = 350


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def violations(code):
    """Banned imports, names and keyword arguments in some Python source."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if BANNED.match(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if BANNED.match(name) or name.rpartition(".")[2] in BANNED_NAMES]
        elif isinstance(node, ast.Name) and node.id in BANNED_NAMES:
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in BANNED_NAMES:
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and node.arg is not None and node.arg in BANNED_NAMES:
            found.append(node.arg)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import dumps",
        "import dagster._core.definitions",
        "from dagster._core.events import X",
        "from dagster import _core",
        "from dagster import SourceAsset",
        "import dagster as dg\ndg.AutoMaterializePolicy.eager()",
        "asset(compute_kind='python')",
        "io = fs_io_manager",
    ],
)
def test_the_search_finds_what_is_banned(code):
    assert violations(code)


def test_no_banned_import_or_name():
    files = sources(*PACKAGES)
    assert len(files) > 20
    found = {str(path.relative_to(ROOT)): violations(path.read_text(encoding="utf-8")) for path in files}
    assert {name: what for name, what in found.items() if what} == {}


def test_files_are_short_enough_to_read():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(*PACKAGES, "benchmarks", "tests")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def make_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", text, flags=re.MULTILINE))


def test_make_targets_named_in_the_documents_exist():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {
        target
        for path in documents
        for target in re.findall(r"(?:^|[`$(\s])make ([a-z][\w-]*)(?=[`\s)]|$)", commands(path), flags=re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= make_targets()


def commands(path):
    """The code spans and code blocks of a markdown file: where a command stands, not where somebody makes sense."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", path.read_text(encoding="utf-8"), flags=re.DOTALL))


def test_links_between_documents_lead_somewhere():
    broken = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_ci_calls_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]
    assert os.access(script, os.X_OK)


def test_every_requirement_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")
        for requirement in [*project["dependencies"], *extras["dev"], *extras["peft"], *extras["ray"]]
    }
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert wanted - set(pins) == set()
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]
