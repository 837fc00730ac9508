"""The commands `ui` and `reports`: the Dagster UI, and the pages that it links to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from recsys_dagster.cli_common import console
from recsys_dagster.errors import RecsysError

if TYPE_CHECKING:
    from resources.reports import ReportServer


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 3000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the UI has no login, so think before you open it.")
    ] = "127.0.0.1",
) -> None:
    """Start the Dagster UI with its daemon for schedules and backfills, and serve the interest reports."""
    from resources.instance import prepare_home
    from resources.reports import LOOPBACK, reports_url

    workspace = str(prepare_home() / "workspace.yaml")
    # Dagster would have `dg dev` here, which only looks at projects that it has made itself.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    command = [sys.executable, *quiet, "-m", "dagster", "dev", "-w", workspace, "-h", host, "-p", str(port)]
    console().print(f"The UI will be at http://{host}:{port} (stop it with Ctrl-C).", highlight=False)
    server = None
    if urlsplit(reports_url()).hostname in LOOPBACK:  # else somebody serves them elsewhere
        try:
            server = report_server()
        except RecsysError as error:
            console().print(f"Reports are not served: {error}", highlight=False)
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            console().print(f"Interest reports are at {reports_url()}.", highlight=False)
    try:
        code = subprocess.call(command, env=os.environ)
    except KeyboardInterrupt:
        code = 0
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
    raise typer.Exit(code)


def reports() -> None:
    """Serve the interest reports on this machine, at RECSYS_REPORTS_URL (http://127.0.0.1:3010)."""
    from resources.reports import reports_url, stored_reports
    from resources.storage import AssetStore

    server = report_server()
    there = stored_reports(AssetStore())
    told = f"of {', '.join(there)}" if there else "of no dataset yet"
    console().print(f"Interest reports {told} at {reports_url()} (stop it with Ctrl-C).", highlight=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def report_server() -> ReportServer:
    """The server at the address that the links name.

    Raises:
        RecsysError: the address is not one of this machine, or its port is taken.
    """
    from resources.reports import ReportServer, reports_url
    from resources.storage import AssetStore

    address = urlsplit(reports_url())
    try:
        return ReportServer(AssetStore(), address.hostname or "", address.port or 80)
    except ValueError as error:
        raise RecsysError(
            f"RECSYS_REPORTS_URL is {reports_url()}: {error}.", mend="set it to http://127.0.0.1 and a free port."
        ) from None
    except OSError as error:
        raise RecsysError(
            f"{reports_url()}: {error.strerror or error}.",
            mend="stop what listens there, perhaps another UI, or set RECSYS_REPORTS_URL to another port.",
        ) from None
