from pathlib import Path

import pytest

from recsys_dagster.data.registry import load_registry
from recsys_dagster.errors import RecsysError

ENTRY = '[shop]\nreader = "sample"\n'


def load(folder: Path, text: str):
    (folder / "datasets.toml").write_text(text)
    return load_registry(folder / "datasets.toml")


def test_no_time_table_unless_it_is_set(tmp_path):
    shop = load(tmp_path, ENTRY)["shop"]
    assert (shop.nightly, shop.retraining, shop.run_config_path) == (None, None, None)


def test_defaults_hold_for_all_and_are_merged_key_by_key(tmp_path):
    found = load(
        tmp_path,
        """
        [defaults]
        nightly = { timezone = "Europe/Berlin", minute = 30 }
        retraining = { weekday = "wednesday", drift = 0.1 }
        run_config = "all.yaml"
        [a]
        reader = "sample"
        [b]
        reader = "sample"
        nightly = { hour = 23 }
        retraining = false
        run_config = "/etc/b.yaml"
        [c]
        extends = "b"
        nightly = false
        """,
    )
    assert list(found) == ["a", "b", "c"]
    assert (found["a"].nightly.cron, found["a"].nightly.timezone) == ("30 2 * * *", "Europe/Berlin")
    assert (found["b"].nightly.cron, found["b"].nightly.timezone) == ("30 23 * * *", "Europe/Berlin")
    assert (found["a"].retraining.cron, found["a"].retraining.drift) == ("0 4 * * 3", 0.1)
    assert found["b"].retraining is found["c"].retraining is found["c"].nightly is None
    assert found["a"].run_config_path == tmp_path / "all.yaml"
    assert found["b"].run_config_path == found["c"].run_config_path == Path("/etc/b.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + "nightly = { houre = 3 }", "unknown key 'nightly.houre'. To mend: did you mean 'hour'?"),
        (ENTRY + "nightly = { hour = 24 }", r"'nightly.hour': .*\(found 24\)"),
        (ENTRY + 'nightly = { timezone = "Berlin" }', "expected an IANA name such as 'Europe/Berlin'"),
        (ENTRY + 'retraining = { weekday = "Sonntag" }', "found 'Sonntag'"),
        ('[defaults]\nsource = "x"\n' + ENTRY, r"\[defaults\] sets 'source', which belongs to one dataset"),
    ],
)
def test_wrong_settings_are_told(tmp_path, text, message):
    with pytest.raises(RecsysError, match=message):
        load(tmp_path, text)
