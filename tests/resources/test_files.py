"""Several files that are published together, by a process that is killed at every point on the way."""

import pytest
from upath import UPath

from resources import files
from resources.files import finish_publishing, publish, stage

NAMES = ("interactions", "users", "items")


class Killed(BaseException):
    """As SIGKILL, it leaves no chance to tidy up."""


@pytest.fixture(params=["local", "memory"])
def base(request, tmp_path) -> UPath:
    base = UPath(tmp_path) if request.param == "local" else UPath(f"memory://{tmp_path.name}")
    for name in NAMES:
        files.write_atomically(base / name / "a.txt", lambda path: path.write_text("old"))
    return base


def staged_in(base: UPath) -> dict[UPath, UPath]:
    targets = [base / name / "a.txt" for name in NAMES]
    return {target: stage(target, lambda path: path.write_text("new")) for target in targets}


def contents(base: UPath) -> list[str]:
    return [(base / name / "a.txt").read_text() for name in NAMES]


@pytest.mark.parametrize("renamed", [0, 1, 2, 3])
def test_what_was_begun_is_ended_by_the_next_reader(base, monkeypatch, renamed):
    staged = staged_in(base)
    assert contents(base) == ["old"] * 3
    rename, left = files._rename, iter(range(renamed))

    def killed(source: UPath, target: UPath) -> None:
        if target.suffix == ".txt" and next(left, None) is None:
            raise Killed
        rename(source, target)

    monkeypatch.setattr(files, "_rename", killed)
    if renamed < 3:
        with pytest.raises(Killed):
            publish(base, "a", staged)
    else:
        publish(base, "a", staged)
    assert contents(base) == ["new"] * renamed + ["old"] * (3 - renamed)
    monkeypatch.setattr(files, "_rename", rename)
    finish_publishing(base, "b")  # of another partition: nothing happens
    assert contents(base).count("new") == renamed
    finish_publishing(base, "a")
    assert contents(base) == ["new"] * 3
    finish_publishing(base, "a")
    hidden = [path for path in base.rglob("*") if path.is_file() and path.suffix != ".txt"]
    assert hidden == []


def test_before_the_journal_nothing_is_published(base, monkeypatch):
    staged = staged_in(base)

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(files, "write_atomically", killed)
    with pytest.raises(Killed):
        publish(base, "a", staged)
    finish_publishing(base, "a")
    assert contents(base) == ["old"] * 3
    stage(base / NAMES[0] / "a.txt", lambda path: path.write_text("newer"))
    parts = [path for path in (base / NAMES[0]).iterdir() if path.name.endswith(".part")]
    assert len(parts) == 1  # the next run tidies up what it writes itself
