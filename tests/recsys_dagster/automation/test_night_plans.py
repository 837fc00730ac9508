"""What a night plans, from what Dagster remembers; the nights themselves run in tests/end_to_end/test_nights.py."""

from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.partitions import datasets
from recsys_dagster.automation.jobs import DATA, RECLUSTER, REFRESH, TRAIN
from recsys_dagster.automation.nights import drift_since_training, plan_night, schedules, with_freshness
from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.data.versions import current_fingerprint
from recsys_dagster.definitions import defs

SELF_MADE = [name for name in REFRESH if name not in ("item_embeddings", "interest_tokens")]


@pytest.fixture(scope="module")
def everyones():
    with dg.instance_for_test() as instance:
        yield instance


class Past:
    """What Dagster remembers of one dataset, by which no other test goes."""

    unused = iter(datasets.get_partition_keys())

    def __init__(self, instance) -> None:
        self.instance, self.name = instance, next(self.unused)


@pytest.fixture
def past(everyones) -> Past:
    return Past(everyones)


def spec_of(folder, name="sample", **settings) -> DatasetSpec:
    entry = {"name": name, "reader": "sequences", "source": "log.txt", "folder": folder, **settings}
    return DatasetSpec.model_validate(entry)


def make(past, asset, version="v1", **metadata) -> None:
    tags = {"dagster/data_version": version}
    event = dg.AssetMaterialization(asset_key=asset, partition=past.name, metadata=metadata, tags=tags)
    past.instance.report_runless_asset_event(event)


@pytest.fixture
def clustered(past, tmp_path):
    (tmp_path / "log.txt").write_text("1 2 3\n2 3 4\n")
    spec = spec_of(tmp_path, past.name)
    make(past, "raw_interactions", current_fingerprint(spec, None))
    for asset in (*DATA[1:-1], *RECLUSTER[:-1]):
        make(past, asset)
    return spec


def test_never_materialized_is_left_alone(past, tmp_path):
    night = plan_night(past.instance, spec_of(tmp_path), None)
    assert night.assets == ()
    assert "run full_lineage" in night.reason


def test_an_unchanged_source_is_skipped_and_a_changed_one_read_again(past, clustered, tmp_path):
    assert plan_night(past.instance, clustered, None).assets == ()
    (tmp_path / "log.txt").write_text("1 2 3\n2 3 4\n3 4 5\n")
    night = plan_night(past.instance, clustered, None)
    assert (list(night.assets), night.reason) == (SELF_MADE, "source changed")
    make(past, "sasrec_model")  # tokens need its embeddings
    assert set(plan_night(past.instance, clustered, None).assets) == {*DATA, "item_embeddings", *RECLUSTER}


def test_a_vanished_source_is_not_skipped_so_that_the_alarm_goes_off(past, clustered, tmp_path):
    (tmp_path / "log.txt").unlink()
    assert plan_night(past.instance, clustered, None).reason == "source cannot be read"


def test_data_that_was_read_since_the_last_clustering_is_clustered(past, clustered):
    for version in ("v1", "v2"):  # made again the same, then others
        assert plan_night(past.instance, clustered, None).assets == ()
        for asset in ("interactions", "users", "items"):
            make(past, asset, version)
    night = plan_night(past.instance, clustered, None)
    assert night.reason == "interactions changed"
    assert list(night.assets) == ["coengagement_graph", "soft_memberships", "prototypes"]


def test_a_night_that_died_is_ended_and_one_that_collapsed_is_not_repeated(past, clustered):
    make(past, "coengagement_graph")
    assert plan_night(past.instance, clustered, None).reason == "the last night did not end"
    check = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("soft_memberships"), check_name="clustering_did_not_collapse", passed=False,
        metadata={}, blocking=True, partition=past.name,
    )  # fmt: skip
    past.instance.report_runless_asset_event(check)
    night = plan_night(past.instance, clustered, None)
    assert night.assets == ()
    assert "collapsed and was not published" in night.reason


def test_what_is_under_way_is_not_asked_for_twice(past, clustered, tmp_path):
    (tmp_path / "log.txt").write_text("1 2 3\n")
    job, tags = defs.resolve_job_def("refresh"), {"dagster/partition": past.name}
    run = past.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert plan_night(past.instance, clustered, None).reason == "a refresh waits or is at work"
    past.instance.report_run_failed(run)
    assert plan_night(past.instance, clustered, None).reason == "source changed"


def test_a_night_that_died_anywhere_is_ended(past, clustered):
    """Killed after any table of the data step, and of the clustering, with tokens and without."""
    version = current_fingerprint(clustered, None)

    def made_up_to(tables, last) -> str:
        for asset in tables[: tables.index(last) + 1]:
            make(past, asset, version if asset.startswith("raw") else "v1")
        return plan_night(past.instance, clustered, None).reason

    data, clustering = DATA[:-1], RECLUSTER[:-1]
    for last in data[:-1]:
        assert made_up_to(data, last) == "interactions are older than the source that was read"
    assert made_up_to(data, data[-1]) == "the source did not change"
    for last in clustering[:-1]:
        assert made_up_to(clustering, last) == "the last night did not end"
    assert plan_night(past.instance, clustered, None).assets == clustering
    make(past, "sasrec_model")
    make(past, "item_embeddings")
    assert made_up_to(RECLUSTER, "interest_tokens") == "the source did not change"
    assert made_up_to(RECLUSTER, "prototypes") == "the last night did not end"


def test_drift_is_summed_since_the_last_training(past):
    make(past, "soft_memberships", drift=0.9)
    assert drift_since_training(past.instance, past.name) is None
    make(past, "g2rec_model")
    assert drift_since_training(past.instance, past.name) == 0.0
    for drift in (0.05, 0.1):
        make(past, "soft_memberships", drift=drift)
    assert drift_since_training(past.instance, past.name) == pytest.approx(0.15)


def tick(schedule, past):
    context = dg.build_schedule_context(
        instance=past.instance,
        scheduled_execution_time=datetime(2026, 1, 4, 4, 0),
        repository_def=defs.get_repository_def(),
    )
    return schedule.evaluate_tick(context)


def test_each_dataset_has_its_schedules_on_where_a_time_is_set(tmp_path):
    quiet = spec_of(tmp_path)
    on = spec_of(tmp_path, name="my-shop", nightly={"hour": 23, "timezone": "Europe/Berlin"}, retraining={})
    found = {schedule.name: schedule for schedule in schedules([quiet, on])}
    assert list(found) == ["nightly_sample", "weekly_sample", "nightly_my__shop", "weekly_my__shop"]
    assert found["nightly_sample"].default_status == dg.DefaultScheduleStatus.STOPPED
    assert found["nightly_sample"].cron_schedule == "0 2 * * *"
    night = found["nightly_my__shop"]
    assert night.default_status == dg.DefaultScheduleStatus.RUNNING
    assert (night.cron_schedule, night.execution_timezone) == ("0 23 * * *", "Europe/Berlin")
    assert found["weekly_my__shop"].cron_schedule == "0 4 * * 0"


def test_the_week_trains_who_drifted(past, clustered):
    (_, week) = schedules([clustered])
    assert "never trained" in tick(week, past).skip_message
    make(past, "g2rec_model")
    make(past, "soft_memberships", drift=0.1)
    assert "0.100 of the memberships moved, retraining starts at 0.2" in tick(week, past).skip_message
    make(past, "soft_memberships", drift=0.11)
    (request,) = tick(week, past).run_requests
    assert request.partition_key == past.name
    assert {key.to_user_string() for key in request.asset_selection} == set(TRAIN)
    assert request.tags["recsys/reason"] == "drift 0.210 since the last training"


def test_runs_take_what_concerns_them_of_the_datasets_run_config(past, clustered, tmp_path):
    config = {"ops": {"interests": {"config": {"seed": 7}}, "larmi_model": {"config": {"epochs": 1}}}}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(config))
    (night, _) = schedules([clustered.model_copy(update={"run_config": Path("shop.yaml")})])
    make(past, "interactions", "v2")
    (request,) = tick(night, past).run_requests
    assert request.run_config == {"ops": {"interests": {"config": {"seed": 7}}}}
    assert request.run_key == f"night-{past.name}-2026-01-04T04:00"


def test_freshness_where_there_are_nights(tmp_path):
    assets = list(defs.assets)
    quiet = spec_of(tmp_path)
    assert with_freshness(assets, [quiet]) == assets
    found = with_freshness(assets, [quiet, spec_of(tmp_path, nightly={"fresh_within_days": 2})])
    policies = {spec.key.to_user_string(): spec.freshness_policy for one in found for spec in one.specs}
    fresh = {name for name, policy in policies.items() if policy is not None}
    assert fresh == {"coengagement_graph", "soft_memberships", "prototypes"}
    assert policies["prototypes"].fail_window.to_timedelta().days == 2
