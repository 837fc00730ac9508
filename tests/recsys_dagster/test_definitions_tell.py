"""Every asset tells its story in the UI: what it is, what it is made of, who owns it, how it is set."""

import re
import subprocess
import sys

import dagster as dg
import pytest

from assets.column_sources import COLUMN_SOURCES
from assets.tables import TABLES
from recsys_dagster.definitions import defs

SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
GRAPH = defs.resolve_asset_graph()
STEPS = {asset.op.name: asset.op for asset in (defs.resolve_assets_def(key) for key in GRAPH.get_all_asset_keys())}
RESOURCES = {name: value for name, value in defs.resources.items() if isinstance(value, dg.ConfigurableResource)}
WITHOUT_EQUATION = {
    # what these are is not computed by a formula
    "raw_interactions", "raw_items", "interactions", "users", "items", "negatives",
    "leaderboard", "user_metrics", "recommendations", "interest_report", "larmi_search_table",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SPECS))
def test_asset_has_what_its_page_shows(name):
    spec = SPECS[name]
    assert spec.description
    assert len(spec.description.split()) >= 10, spec.description
    assert spec.description.strip().endswith(".")
    assert list(spec.owners) == ["team:recsys"]
    assert spec.kinds
    assert spec.group_name
    assert spec.group_name != "default"
    assert spec.code_version
    assert str(spec.metadata["reports"].value).startswith("http")
    assert (
        name in WITHOUT_EQUATION or "Eq. " in spec.description or re.search("`[^`]*(=|<-|\\()[^`]*`", spec.description)
    )


@pytest.mark.parametrize("name", TABLES)
def test_table_has_described_columns(name):
    schema = SPECS[name].metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns] == list(TABLES[name])
    assert all(column.description and column.type for column in schema.columns)


def test_only_tables_have_columns():
    assert {name for name, spec in SPECS.items() if "dagster/column_schema" in spec.metadata} == set(TABLES)


@pytest.mark.parametrize("name", sorted(COLUMN_SOURCES))
def test_columns_come_from_columns_of_what_the_asset_reads(name):
    above = {key.to_user_string() for key in GRAPH.get(dg.AssetKey(name)).parent_keys}
    stored = SPECS[name].metadata["dagster/column_lineage"]
    for column, sources in COLUMN_SOURCES[name].items():
        assert column in TABLES[name]
        for source in sources:
            asset, _, of = source.partition(".")
            assert asset in above, source
            assert of in TABLES[asset], source
        told = {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in stored.deps_by_column[column]}
        assert told == set(sources)


def test_every_table_but_the_raw_ones_has_a_column_lineage():
    assert set(COLUMN_SOURCES) == set(TABLES) - {"raw_interactions", "raw_items"}


def fields_of(schema):
    fields = getattr(schema.config_type, "fields", {})
    return {name: field for name, field in fields.items() if name != "io_manager_key"}


@pytest.mark.parametrize("step", sorted(STEPS))
def test_launchpad_describes_every_setting_and_has_its_default(step):
    for name, field in fields_of(STEPS[step].config_schema).items():
        assert field.description, f"{step}.{name}"
        assert not field.is_required, f"{step}.{name}"


@pytest.mark.parametrize("name", RESOURCES)
def test_launchpad_describes_every_setting_of_a_resource(name):
    fields = type(RESOURCES[name]).model_fields
    assert {field for field, about in fields.items() if not about.description} == set()


def test_some_settings_were_looked_at():
    counted = {step: len(fields_of(op.config_schema)) for step, op in STEPS.items()}
    assert counted["g2rec_model"] > 15
    assert counted["interests"] > 10
    assert sum(counted.values()) > 100


def test_jobs_checks_and_schedules_are_described():
    for job in defs.resolve_all_job_defs():
        assert job.description or job.name.startswith("__"), job.name
    for schedule in defs.schedules or ():
        assert schedule.description, schedule.name
    for sensor in defs.sensors or ():
        assert sensor.description, sensor.name
    for key in GRAPH.asset_check_keys:
        assert GRAPH.get_check_spec(key).description, key


def test_groups_read_from_left_to_right():
    """No group stands both before and after another one, so the graph of groups can be drawn in columns."""
    edges = {
        (SPECS[above.to_user_string()].group_name, spec.group_name)
        for spec in SPECS.values()
        for above in GRAPH.get(spec.key).parent_keys
    }
    left = {group for pair in edges for group in pair}
    before = {group: {a for a, b in edges if b == group and a != group} for group in left}
    while free := {group for group in left if not before[group] & left}:
        left -= free
    assert left == set(), "a circle of groups"


def test_loading_warns_of_nothing():
    # Only what our own lines cause counts: `once` shows each, and a package's own ways are its own.
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import dagster as dg, recsys_dagster.definitions as d\n"
        "    dg.Definitions.validate_loadable(d.defs)\n"
        "ours = [f'{w.filename}:{w.lineno}: {w.message}' for w in seen if 'site-packages' not in w.filename]\n"
        "print('\\n'.join(ours))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("", "")
