import argparse
import json

from benchmarks import llm
from benchmarks.common import main


def test_a_small_run_reports_every_field_and_sends_each_user_once(capsys, monkeypatch):
    monkeypatch.setattr(llm, "local", lambda dataset: {"local_s": 1.0, "local_users_per_s": 600.0})
    arguments = ["--json", "--users", "60", "--concurrency", "8", "--latency-ms", "30"]
    main(llm.measure, llm.add_arguments, arguments)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["latency_ratio"] >= 1.0, "nothing is faster than the server"
    assert found["bound_s"] == 0.225
    assert (found["calls_per_user"], found["resume_extra_calls"], found["cached_rerun_calls"]) == (1.0, 0, 0)
    assert 0 <= found["killed_lost_calls"] <= 8
    assert found["killed_after_calls"] >= 20
    assert {"cached_rerun_s", "local_users_per_s"} <= set(found)


def test_the_local_clusterer_is_timed_on_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    found = llm.local("sample")
    assert found["local_users_per_s"] > 0
    assert abs(found["local_users_per_s"] * found["local_s"] - 600) < 5


def test_the_program_takes_its_options():
    parser = argparse.ArgumentParser()
    llm.add_arguments(parser)
    options = parser.parse_args([])
    assert (options.users, options.concurrency, options.latency_ms, options.dataset) == (5_000, 64, 200.0, "sample")
