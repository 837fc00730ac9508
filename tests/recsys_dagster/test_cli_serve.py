"""What `serve` starts; the processes themselves run in tests/end_to_end/test_real_storage.py."""

import socket
from pathlib import Path

import pytest
import yaml

from recsys_dagster import cli, cli_serve


@pytest.fixture
def serve(tmp_path, monkeypatch, capsys):
    """The command line that `serve` becomes, or its error."""
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))

    def run(*arguments: str) -> list[str] | str:
        started: list[list[str]] = []
        monkeypatch.setattr(cli_serve.os, "execv", lambda program, command: started.append(command))
        with pytest.raises(SystemExit):
            cli.main(["serve", *arguments])
        return started[0][2:] if started else capsys.readouterr().err

    return run


def test_every_process_listens_on_loopback_and_finds_the_code(serve, tmp_path):
    assert serve("code")[-4:] == ["--host", "127.0.0.1", "--port", "4000"]
    assert (tmp_path / "dagster" / "dagster.yaml").exists()
    web, daemon = serve("webserver"), serve("daemon", "--code", "code:4001")
    assert web[0] == "dagster_webserver"
    assert web[-4:] == ["--host", "127.0.0.1", "--port", "3000"]
    servers = []
    for command in (web, daemon):
        text = Path(command[command.index("--workspace") + 1]).read_text()
        ((kind, server),) = yaml.safe_load(text)["load_from"][0].items()
        assert kind == "grpc_server"
        servers.append((server["host"], server["port"], server["location_name"]))
    assert servers == [("127.0.0.1", 4000, "recsys_dagster"), ("code", 4001, "recsys_dagster")]


def test_what_cannot_be_served_is_said_in_one_line(serve):
    assert serve("webserver", "--code", "4000") == (
        "error: --code 4000: no host and port. To mend: write it as 127.0.0.1:4000.\n"
    )
    assert "they have no login" in serve("reports", "--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "reports cannot be served at 127.0.0.1" in serve("reports", "--port", str(other.getsockname()[1]))


def test_the_unit_files_name_what_there_is(serve):
    deploy = Path(__file__).parents[2] / "deploy"
    wanted = next(line for line in (deploy / "recsys.target").read_text().splitlines() if line.startswith("Wants="))
    roles = {name.removeprefix("recsys@").removesuffix(".service") for name in wanted.removeprefix("Wants=").split()}
    assert roles == {role.value for role in cli_serve.Role}
    assert "ExecStart=/opt/recsys/venv/bin/recsys-dagster serve %i" in (deploy / "recsys@.service").read_text()
