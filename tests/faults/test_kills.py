"""Processes killed at random moments; `python -m benchmarks.kills` does the same all over the lineage."""

from benchmarks.kills import run_kills


def test_one_run_after_a_kill_ends_as_if_nothing_had_been(tmp_path):
    lines: list[str] = []
    trials = run_kills(tmp_path, 4, 1, ["prepared_data", "popularity_model"], lines.append)
    assert [trial.when for trial in trials] == ["any moment"] * 2 + ["writing"] * 2
    assert [trial for trial in trials if trial.faults] == [], "\n".join(lines)
