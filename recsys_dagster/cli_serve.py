"""The command `serve`: one process of a deployment, for systemd units and containers (docs/deploy.md)."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from recsys_dagster.errors import RecsysError


class Role(StrEnum):
    """What a process of a deployment does."""

    code = "code"
    webserver = "webserver"
    daemon = "daemon"
    reports = "reports"


PORTS = {Role.code: 4000, Role.webserver: 3000, Role.reports: 3010}

WORKSPACE = """\
# Written by recsys-dagster serve at each start.
load_from:
  - grpc_server:
      host: {host}
      port: {port}
      location_name: recsys_dagster
"""


def serve(
    role: Annotated[
        Role,
        typer.Argument(help="code: the code location, in which runs execute; webserver: the UI; daemon; reports."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Nothing here has a login, so think before you open it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; code 4000, webserver 3000, reports 3010.")
    ] = None,
    code: Annotated[str, typer.Option(help="Where webserver and daemon find the code location.")] = "127.0.0.1:4000",
) -> None:
    """Run one process of a deployment until it is stopped."""
    from resources.instance import prepare_home

    folder, port = prepare_home(), port or PORTS.get(role)
    if role is Role.reports:
        _reports(host, port or 0)
        return
    command = [sys.executable, "-m"]
    if role is Role.code:
        command += ["dagster", "code-server", "start", "--module-name", "recsys_dagster.definitions"]
    else:
        name, _, number = code.rpartition(":")
        if not name or not number.isdigit():
            raise RecsysError(f"--code {code}: no host and port.", mend="write it as 127.0.0.1:4000.")
        workspace = folder / f"workspace-{role.value}.yaml"
        workspace.write_text(WORKSPACE.format(host=name, port=number), encoding="utf-8")
        module = ["dagster_webserver"] if role is Role.webserver else ["dagster._daemon", "run"]
        command += [*module, "--workspace", str(workspace)]
    if role is not Role.daemon:
        command += ["--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # signals reach Dagster itself


def _reports(host: str, port: int) -> None:
    from resources.reports import ReportServer
    from resources.storage import AssetStore

    try:
        ReportServer(AssetStore(), host, port).serve_forever()
    except (ValueError, OSError) as error:
        raise RecsysError(
            f"reports cannot be served at {host}:{port} ({error}).", mend="choose another --host or --port."
        ) from None
