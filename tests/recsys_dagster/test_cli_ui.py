import socket
import urllib.request
from pathlib import Path

import pytest
from services import free_ports

from recsys_dagster import cli, cli_ui


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv("RECSYS_REPORTS_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    return tmp_path / "home"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_ui_starts_dagster_on_loopback_with_its_home_and_serves_reports(monkeypatch, capsys, home):
    seen = {}
    (home / "assets" / "interest_report").mkdir(parents=True)
    (home / "assets" / "interest_report" / "sample.html").write_text("<p>here</p>")

    def dagster_dev(command, env):
        with urllib.request.urlopen(f"{env['RECSYS_REPORTS_URL']}/sample.html", timeout=10) as answer:
            seen.update(command=command, env=dict(env), page=answer.read())
        return 0

    monkeypatch.setattr(cli_ui.subprocess, "call", dagster_dev)
    code, out, _ = run(capsys, "ui", "--port", "4000")
    assert code == 0
    workspace = str(home / "dagster" / "workspace.yaml")
    assert seen["command"][3:] == ["-m", "dagster", "dev", "-w", workspace, "-h", "127.0.0.1", "-p", "4000"]
    assert seen["env"]["DAGSTER_HOME"] == str(home / "dagster")
    assert seen["env"]["RECSYS_HOME"] == str(home)
    assert (home / "dagster" / "dagster.yaml").exists()
    assert seen["page"] == b"<p>here</p>"
    assert seen["env"]["RECSYS_REPORTS_URL"] in out


def test_ui_goes_on_where_the_port_of_the_reports_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(cli_ui.subprocess, "call", lambda command, env: 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("RECSYS_REPORTS_URL", f"http://127.0.0.1:{other.getsockname()[1]}")
        code, out, _ = run(capsys, "ui")
        assert code == 0
        assert "Reports are not served" in out
        assert "perhaps another UI" in out
        code, _, err = run(capsys, "reports")
        assert code == 1
        assert err.startswith("error: http://127.0.0.1")


def test_ui_leaves_reports_alone_that_are_served_elsewhere(monkeypatch, capsys):
    monkeypatch.setattr(cli_ui.subprocess, "call", lambda command, env: 3)
    monkeypatch.setenv("RECSYS_REPORTS_URL", "https://reports.example")
    code, out, _ = run(capsys, "ui")
    assert code == 3
    assert "eports" not in out
    assert "not on 'reports.example'" in run(capsys, "reports")[2]
