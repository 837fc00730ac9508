"""The exchange with a peer, its worker and its environment; the peer is one written here, of numpy alone."""

import argparse
import json
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import ranking
from benchmarks.peers import arguments, comparison, environment, exchange, run, settings, worker
from recsys_dagster.errors import RecsysError

POPULARITY = """
    import numpy as np
    from benchmarks.peers.worker import Size, serve

    def fit(task, pace):
        print("what a library prints must not disturb the answers")
        counts = np.zeros(task.request.n_items, dtype=np.float32)
        for epoch in range(task.request.epochs):
            for items in pace.over(np.array_split(task.train.items, 4), lambda part: Size(len(part), 1, 2)):
                np.add.at(counts, items, 1)
        return lambda users: np.repeat(counts[None], len(users), axis=0)

    serve(fit, lambda: {"popularity": "1.0"})
"""


@pytest.fixture
def popularity(tmp_path):
    """Makes the command of a worker that counts items."""
    script = tmp_path / "popularity_worker.py"
    script.write_text(textwrap.dedent(POPULARITY), encoding="utf-8")
    return lambda folder: [sys.executable, str(script), str(folder)]


def task_in(folder, data, **request):
    return comparison.task_of(data, folder, **{"library": "fake", "model": "Pop", "epochs": 2, **request})


def test_a_task_comes_back_as_it_was_written(toy_data, tmp_path):
    task = task_in(tmp_path / "exchange", toy_data, seed=3, mode="rate")
    task.write()
    back = exchange.Task.read(task.folder)
    assert back.request == task.request
    for split in ("train", "validation"):
        for ours, theirs in zip(getattr(task, split), getattr(back, split), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back.train.users, toy_data.train.users)
    histories, lengths = back.histories(np.array([0, 7]))
    for user, history, length in zip((0, 7), histories, lengths, strict=True):
        both = [*toy_data.train.of(user), *toy_data.validation.of(user)]
        assert history.tolist() == both[-toy_data.max_length :]
        assert length == len(history)


def test_the_test_split_is_not_handed_over(toy_data, tmp_path):
    task = task_in(tmp_path, toy_data)
    task.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "train.npz", "validation.npz"]
    handed = len(task.train.items) + len(task.validation.items)
    assert handed == len(toy_data.train.items) + len(toy_data.validation.items)


def test_stored_scores_are_ranked_like_those_of_the_model(toy_data, tmp_path):
    scores = np.random.default_rng(0).standard_normal((toy_data.n_users, toy_data.n_items)).astype(np.float32)
    request = task_in(tmp_path, toy_data).request
    exchange.write_scores(tmp_path, request, iter(np.array_split(scores, 5)))
    stored = comparison.StoredScorer(exchange.read_scores(tmp_path, request))
    assert isinstance(stored.table, np.memmap)
    users = np.array([5, 2, 59])
    np.testing.assert_array_equal(stored.score(users, toy_data.train).numpy(), scores[users])

    class Direct:
        n_items = toy_data.n_items

        def score(self, users, histories):
            return torch.from_numpy(scores[users])

    splits = (toy_data.train, toy_data.validation, toy_data.test)
    interactions = pd.concat(pd.DataFrame({"user_id": each.users, "item_id": each.items}) for each in splits)
    found = [ranking.ranked(each, toy_data, interactions, "sample", "x") for each in (stored, Direct())]
    assert found[0] == found[1]
    assert len(found[0]) == 8


@pytest.mark.parametrize("shapes", [[(60, 23)], [(59, 24)], [(60, 24), (1, 24)]])
def test_scores_of_a_wrong_shape_are_refused(shapes, toy_data, tmp_path):
    request = task_in(tmp_path, toy_data).request
    with pytest.raises(ValueError, match="scores of"):
        exchange.write_scores(tmp_path, request, (np.zeros(shape, np.float32) for shape in shapes))


def test_objects_in_the_score_file_are_refused(toy_data, tmp_path):
    np.save(tmp_path / exchange.SCORES, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        exchange.read_scores(tmp_path, task_in(tmp_path, toy_data).request)


def test_a_worker_trains_and_its_scores_are_ranked(toy_data, tmp_path, popularity):
    task = task_in(tmp_path / "exchange", toy_data)
    result = comparison.run_worker(popularity(task.folder), task)
    assert (result["epochs"], result["targets"]) == (2, 2 * len(toy_data.train.items))
    assert result["versions"] == {"popularity": "1.0"}
    scores = exchange.read_scores(task.folder, task.request)
    np.testing.assert_array_equal(scores[0], 2 * toy_data.train.popularity())
    np.testing.assert_array_equal(scores[59], scores[0])


def test_a_worker_trains_in_windows(toy_data, tmp_path, popularity):
    task = task_in(tmp_path / "exchange", toy_data, mode="rate", epochs=100)
    rater = comparison.Rater(popularity(task.folder), task)
    quarter = len(toy_data.train.items) / 4
    for steps in (1, 6):  # the second one goes into another epoch
        window = rater.window(steps)
        assert (window["steps"], window["items"], window["cells"]) == (steps, steps, 2 * steps)
        assert window["targets"] == pytest.approx(steps * quarter, abs=4)
        assert window["seconds"] > 0
    rater.close()
    assert rater.process.returncode == 0


def test_a_worker_that_fails_is_told_in_one_line(toy_data, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("import a_library_that_is_missing\n", encoding="utf-8")
    task = task_in(tmp_path / "exchange", toy_data)
    command = [sys.executable, str(script), str(task.folder)]
    with pytest.raises(RecsysError, match=r"fake \(Pop\) failed: ModuleNotFoundError.*a_library_that_is_missing"):
        comparison.run_worker(command, task)
    with pytest.raises(RecsysError, match="a_library_that_is_missing"):
        comparison.Rater(command, task)


def test_the_workers_import_nothing_of_ours_but_what_needs_numpy():
    """The peers' environments have neither our dependencies nor our packages."""
    code = "import sys, benchmarks.peers.worker as w; print(sorted(sys.modules))"
    python = [sys.executable, "-c", code]
    loaded = subprocess.run(python, env=comparison.worker_environment(), capture_output=True, text=True, check=True)
    for name in ("'pandas'", "'torch'", "'pydantic'", "'recsys_dagster'", "'scipy'"):
        assert name not in loaded.stdout


def test_prefixes_are_the_targets_that_our_models_learn(toy_data, tmp_path):
    from benchmarks.peers.recbole_worker import next_items, prefixes

    task = task_in(tmp_path, toy_data)
    rows = [row.split("\t") for row in prefixes(task)]
    assert len(rows) == (toy_data.train.lengths - 1).sum()
    assert rows[0] == ["0", str(toy_data.train.of(0)[0]), str(toy_data.train.of(0)[1])]
    assert max(len(row[1].split()) for row in rows) <= toy_data.max_length
    first = next(next_items(task)).split("\t")
    assert first[2] == str(toy_data.validation.of(0)[0])


def test_an_environment_without_the_library_is_refused(tmp_path):
    with pytest.raises(RecsysError, match=r"no virtual environment.*pip install recbole==1.2.1"):
        environment.python_of("recbole", tmp_path)
    python = environment.interpreter(tmp_path)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    with pytest.raises(RecsysError, match=r"has no recbole \(.*PackageNotFoundError"):
        environment.python_of("recbole", tmp_path)


def test_no_network_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    commands = []

    def offline(command, **options):
        commands.append(command)
        if command[-2] == "venv":
            (tmp_path / "peers" / "recbole").mkdir()
            return subprocess.CompletedProcess(command, 0, "", "")
        output = "WARNING: Retrying\nERROR: No matching distribution found for recbole==1.2.1\nnotice\n"
        return subprocess.CompletedProcess(command, 1, "", output)

    monkeypatch.setattr(environment.subprocess, "run", offline)
    with pytest.raises(RecsysError, match=r"environment for recbole cannot be made: ERROR: No matching.*--python-env"):
        environment.python_of("recbole")
    assert commands[1][-len(settings.REQUIREMENTS["recbole"]) :] == list(settings.REQUIREMENTS["recbole"])
    assert not (tmp_path / "peers" / "recbole").exists()


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    made = []

    def make(library, folder):
        made.append(library)
        folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environment, "make", make)
    for _ in range(2):
        assert environment.python_of("cornac").is_relative_to(tmp_path / "peers" / "cornac")
    assert made == ["cornac"]
    monkeypatch.setattr(environment, "REQUIREMENTS", {"cornac": ("cornac==9",)})
    environment.python_of("cornac")
    assert made == ["cornac"] * 2


def test_a_model_that_a_library_lacks(capsys):
    parser = argparse.ArgumentParser()
    arguments(parser)
    with pytest.raises(SystemExit, match=r"cornac has no such model here. To mend: take one of SASRec, GRU4Rec"):
        run(parser.parse_args(["--library", "cornac", "--model", "LightGCN"]))


def test_pins_name_the_library_first_and_torch_stays_where_cpu_builds_are():
    for library, pins in settings.REQUIREMENTS.items():
        assert pins[0].startswith(f"{library}==")
        assert "torch==2.13.0" in pins
        assert all("==" in pin for pin in pins)


def test_the_pace_counts_epochs_and_leaves_out_what_lies_between():
    pace = worker.Pace()
    for _ in range(2):
        assert list(pace.over([1, 2, 3], lambda n: worker.Size(n, n, n))) == [1, 2, 3]
    assert (pace.targets, pace.epochs) == (12, 2)
    assert json.dumps(pace.seconds)
