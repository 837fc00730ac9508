"""The whole lineage on the generated datasets, through the command line, as a user runs it."""

import json

import dagster as dg
import pandas as pd
import pytest

from assets import checks
from assets.tables import TABLES, conform
from recsys_dagster.cli import main
from recsys_dagster.definitions import defs
from recsys_dagster.runs import lineage_job
from resources.storage import local_directory

DATASETS = ("sample", "sample_622")


@pytest.fixture
def instance(home):
    with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        yield instance


def test_both_partitions_of_every_asset_are_materialized(home, instance):
    for key in lineage_job().asset_layer.selected_asset_keys:
        assert instance.get_materialized_partitions(key) == set(DATASETS), key
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2
    parts = [path for path in home.folder.rglob("*") if path.name.endswith(".part") or ".staging" in path.parts]
    assert [path for path in parts if path.is_file()] == []


@pytest.mark.parametrize("dataset", DATASETS)
def test_tables_have_the_documented_columns(home, dataset):
    for name in set(TABLES) - {"larmi_trials", "larmi_search_table"}:  # where somebody searched
        table = home.table(name, dataset)
        assert list(conform(table, name).columns) == list(table.columns)
        assert len(table)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_check_passed(instance, dataset):
    keys = list(defs.resolve_asset_graph().asset_check_keys)
    for key in keys:
        runs = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        states = {run.partition: run.status.value for run in runs}
        assert states[dataset] == "SUCCEEDED", key


@pytest.mark.parametrize("dataset", DATASETS)
def test_metadata_plots_and_tells(instance, dataset):
    for key in lineage_job().asset_layer.selected_asset_keys:
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[dataset])
        (record, *_) = instance.fetch_materializations(wanted, limit=1).records
        metadata = record.asset_materialization.metadata
        numbers = [name for name, value in metadata.items() if isinstance(value.value, int | float)]
        assert {"seconds", "bytes"} < set(numbers), key
        assert len(json.dumps(metadata["config_fingerprint"].value)) == 14 if "config_fingerprint" in metadata else True
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("coengagement_graph"), asset_partitions=[dataset])
    (record, *_) = instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization.metadata["degrees"].value.startswith("![")


@pytest.mark.parametrize("dataset", DATASETS)
def test_our_models_beat_popularity_by_a_wide_margin(home, dataset):
    rows = json.loads(home.run("leaderboard", "--dataset", dataset, "--json"))
    assert {"model", "protocol", "candidates", "metric", "k", "value"} <= set(rows[0])
    k = 20 if dataset.endswith("622") else 10
    ndcg = {
        row["model"]: row["value"]
        for row in rows
        if (row["metric"], row["k"], row["candidates"]) == ("NDCG", k, "full")
    }
    assert set(ndcg) == {"popularity", "sasrec", "larmi", "g2rec"}
    for model in ("larmi", "g2rec"):
        assert ndcg[model] > 1.5 * ndcg["popularity"], ndcg
    assert "g2rec" in home.run("leaderboard")


def test_planted_interests_are_recovered(instance):
    key = dg.AssetCheckKey(dg.AssetKey("soft_memberships"), "planted_interests_recovered")
    runs = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    for run in runs:
        metadata = run.event.dagster_event.asset_check_evaluation_data.metadata
        assert metadata["adjusted_mutual_information"].value > 0.5


def test_recommend_shows_titles_and_agrees_with_the_stored_table(home):
    users, items = home.table("users", "sample"), home.table("items", "sample")
    user = users["source_key"].iloc[3]
    stored = home.table("recommendations", "sample")
    for model in ("larmi", "g2rec"):
        found = home.run("recommend", "-d", "sample", "-m", model, "-u", user, "-n", "5", "--json")
        rows = json.loads(found)
        wanted = stored[(stored["model"] == model) & (stored["user_id"] == 3)].head(5)
        assert [row["item"] for row in rows] == items["source_key"].to_numpy()[wanted["item_id"]].tolist()
        assert all(row["title"] for row in rows)
    assert "no such user" in home.run("recommend", "-d", "sample", "-u", "nobody", code=1)
    assert "not a model" in home.run("recommend", "-d", "sample", "-m", "bert", "-u", user, code=1)


def test_nothing_is_pickled(home):
    suffixes = {path.suffix for path in (home.folder / "assets").rglob("*") if path.is_file()}
    assert suffixes == {".parquet", ".safetensors", ".json", ".html", ""}
    assert {path.name for path in (home.folder / "assets").rglob("*") if path.is_file() and not path.suffix} == {
        "current"
    }


def test_report_makes_no_request(home):
    page = home.store.path("interest_report", "sample", ".html").read_text(encoding="utf-8")
    assert "<html" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.fixture
def command(home, monkeypatch, capsys):
    """The command line in this process: what it printed, and its errors where it failed."""

    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said.out + said.err
        return said.err if code else said.out

    monkeypatch.setenv("RECSYS_HOME", str(home.folder))
    monkeypatch.setenv("DAGSTER_HOME", str(home.folder / "dagster"))
    return run


def test_explain_tells_where_recommendations_come_from(home, command):
    users, items = home.table("users", "sample_622"), home.table("items", "sample_622")
    user = users["source_key"].iloc[3]
    found = json.loads(command("explain", "-d", "sample_622", "-u", user, "-n", "6", "--json"))
    interests = found["interests"]
    listed = {row["rank"]: row["item"] for interest in interests for row in interest["recommendations"]}
    stored = home.table("recommendations", "sample_622")
    wanted = stored[(stored["model"] == "larmi") & (stored["user_id"] == 3)].head(6)["item_id"]
    assert [listed[rank] for rank in range(1, 7)] == items["source_key"].to_numpy()[wanted].tolist()
    names = set(home.table("user_clusters", "sample_622").query("user_id == 3")["label"])
    assert {label["label"] for interest in interests for label in interest["labels"]} <= names
    assert all(abs(sum(item["share"] for item in interest["items"]) - 1) < 0.01 for interest in interests)
    text = command("explain", "-d", "sample_622", "-u", user)
    assert "Interest 0" in text
    assert "no such user" in command("explain", "-d", "sample_622", "-u", "nobody", code=1)
    assert "has not been materialized" in command("explain", "-d", "beauty", "-u", "1", code=1)


def test_pictures_of_interests_stand_in_the_metadata(instance):
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("larmi_model"), asset_partitions=["sample_622"])
    (record, *_) = instance.fetch_materializations(wanted, limit=1).records
    metadata = record.asset_materialization.metadata
    for name in ("coarseness_and_attention", "interests_and_items"):
        assert metadata[name].value.startswith("![")
    low, high = (metadata[f"coarseness_concentration_{end}"].value for end in ("low", "high"))
    assert low < metadata["coarseness_concentration"].value < high
    assert -1 <= metadata["interest_cosine"].value <= 1


def test_export_serves_the_stored_recommendations(home, command):
    from recsys_dagster.larmi.export import read_export
    from recsys_dagster.larmi.retrieval import FlatIndex, retrieve

    folder = home.folder / "served"
    assert "interests" in command("export", "-d", "sample_622", "-o", str(folder))
    vectors, facts = read_export(folder)
    stored = home.table("recommendations", "sample_622").query("model == 'larmi'")
    for user in range(0, 600, 60):
        found, _ = retrieve(vectors, FlatIndex(vectors.items), user, 10, mask_seen=facts["mask_seen"])
        assert found.tolist() == stored[stored["user_id"] == user].head(10)["item_id"].tolist()
    assert "it exists already" in command("export", "-d", "sample_622", "-o", str(folder), code=1)


# The tests below change the state, so they stand last.


def test_a_search_goes_on_where_it_was(home, command, instance):
    config = home.folder / "search.yaml"
    config.write_text("ops:\n  larmi_trials: {config: {epochs: 1, labels: false}}\n")
    first, second = "k2-lr0.01-wd0.0001", "k4-lr0.0001-wd1e-06"
    run = ("search", "-d", "sample_622", "--config", str(config), "--trial", first)
    assert "(1 of 1)" in command(*run)
    written = home.store.path("larmi_trials", f"sample_622/{first}").stat().st_mtime
    said = command(*run, "--trial", second)
    assert f"{first}: stored already (1 of 2)" in said
    assert home.store.path("larmi_trials", f"sample_622/{first}").stat().st_mtime == written
    table = home.table("larmi_search_table", "sample_622")
    assert set(table["trial"]) == {first, second}
    assert table["validation_recall"].is_monotonic_decreasing
    row = table.set_index("trial").loc[first]
    assert (row["interests"], row["learning_rate"], row["weight_decay"]) == (2, 0.01, 1e-4)
    keys = instance.get_materialized_partitions(dg.AssetKey("larmi_trials"))
    assert keys == {f"sample_622|{first}", f"sample_622|{second}"}
    assert "no such trial" in command("search", "-d", "sample_622", "--trial", "k3", code=1)
    # a trial of other data is shown in no table
    stale = home.store.previous_table("larmi_trials", f"sample_622/{second}").assign(learned_from="another")
    stale.to_parquet(str(home.store.path("larmi_trials", f"sample_622/{second}")))
    home.run("materialize", "-d", "sample_622", "-s", "larmi_search_table")
    assert set(home.table("larmi_search_table", "sample_622")["trial"]) == {first}


def test_comparisons_join_the_leaderboard_where_they_were_asked_for(home):
    config = home.folder / "comparisons.yaml"
    config.write_text("ops:\n  bpr_model: {config: {epochs: 4}}\n  gru4rec_model: {config: {epochs: 2, seeds: 2}}\n")
    select = [part for name in ("bpr_model", "gru4rec_model", "metrics", "leaderboard") for part in ("--select", name)]
    before = home.table("metrics", "sample")
    home.run("materialize", "--dataset", "sample", *select, "--config", str(config))
    after = home.table("metrics", "sample")
    assert set(after["model"]) == set(before["model"]) | {"bpr", "gru4rec"}
    seeds = after.groupby("model")["seed"].agg(lambda column: sorted(set(column)))
    assert seeds["gru4rec"] == [0, 1]
    assert seeds["bpr"] == [0]
    assert "±" in home.run("leaderboard", "--dataset", "sample")
    # a comparison that was trained on another log is left out
    runtime = local_directory(home.store.base() / "bpr_model" / "sample") / "runtime.json"
    runtime.write_text(runtime.read_text().replace('"interactions": "', '"interactions": "another-'))
    home.run("materialize", "--dataset", "sample", "--select", "metrics", "--select", "leaderboard")
    assert set(home.table("metrics", "sample")["model"]) == set(before["model"]) | {"gru4rec"}
    error = home.folder / "absent.yaml"
    error.write_text("ops:\n  recommendations: {config: {models: [bpr]}}\n")
    said = home.run("materialize", "--dataset", "sample", "--select", "recommendations", "--config", str(error), code=1)
    assert "run the job compare for sample first" in said


def test_second_night_keeps_prototype_ids(home):
    before = home.table("prototypes", "sample")
    home.run("materialize", "-d", "sample", "-s", "coengagement_graph", "-s", "prototypes", "-s", "interest_tokens")
    after = home.table("prototypes", "sample")
    kept = after["prototype_id"].isin(before["prototype_id"])
    assert kept.all()
    assert (after["previous_id"] == after["prototype_id"].where(kept, -1)).all()
    # An unchanged graph changes next to nothing, at any level.
    moved = after["drift"] * before.set_index("prototype_id")["n_items"].reindex(after["prototype_id"]).to_numpy()
    assert moved.sum() <= 0.02 * before["n_items"].sum()
    assert len(after) >= 0.98 * len(before)


def test_leak_check_fails_on_a_real_test_edge(home):
    users, log = home.table("users", "sample"), home.table("interactions", "sample")
    graph = home.table("coengagement_graph", "sample")
    train = log[log["split"] == 0].groupby("item_id")["user_id"].agg(set)
    known = set(zip(graph["source"], graph["target"], strict=True))
    last = log.groupby("user_id")["item_id"].agg(["first", "last"])
    source, target = next(
        pair
        for pair in zip(last.min(axis=1), last.max(axis=1), strict=True)
        if pair not in known and pair[0] != pair[1] and not train.get(pair[0], set()) & train.get(pair[1], set())
    )
    edge = pd.DataFrame({"source": [source], "target": [target], "weight": [1.0]}).astype(graph.dtypes.to_dict())
    leaked = pd.concat([graph, edge]).sort_values(["source", "target"], ignore_index=True)

    result = checks.graph_from_train(leaked, log, users, home.table("items", "sample"))
    assert not result.passed
    assert f"no user has both items of edge {source}-{target}" in result.description


def test_model_directories_hold_no_leftovers(home):
    for model in ("popularity", "sasrec", "larmi", "g2rec"):
        directory = local_directory(home.store.path(f"{model}_model", "sample", ""))
        assert {"model.safetensors", "config.json", "training.parquet"} <= {path.name for path in directory.iterdir()}
    assert [path for path in (home.folder / "checkpoints").rglob("*") if path.is_file()] == []
