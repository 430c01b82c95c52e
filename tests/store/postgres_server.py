"""A PostgreSQL server for tests: the real one, of the Debian package, with its own data folder on a port of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


BINARIES = _binaries()
"""Where ``initdb`` and ``postgres`` are; None where PostgreSQL is not installed."""
# Nothing of a test outlives the machine, so nothing waits for the disk.
QUICK = {"fsync": "off", "autovacuum": "off", "shared_buffers": "16MB"}


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of an empty database on loopback, on a free port, without a unix socket; gone at the end."""
    assert BINARIES is not None
    # initdb and postgres refuse root, and setpriv makes the server end with us even if we are killed.
    as_postgres = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    home = Path(tempfile.mkdtemp(prefix="empelt-postgres-"))
    password = secrets.token_hex(16)
    (home / "password").write_text(password)
    if as_postgres:
        for path in (home, home / "password"):
            shutil.chown(path, "postgres", "postgres")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    flags = ["-U", "empelt", "-A", "scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync", "-E", "UTF8"]
    made = subprocess.run(
        ["setpriv", *as_postgres, "--", str(BINARIES / "initdb"), "-D", str(home / "data"), *flags],
        capture_output=True,
        text=True,
        env=env,
        cwd="/",
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", **QUICK}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    url = f"postgresql://empelt:{password}@127.0.0.1:{port}/postgres"
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *("setpriv", *as_postgres, "--pdeathsig", "SIGQUIT", "--"),
                *(str(BINARIES / "postgres"), "-D", str(home / "data"), *options),
            ],
            stdout=log,
            stderr=log,
            env=env,
            cwd="/",
        )
    try:
        _wait_until_up(server, url, home / "log")
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)  # at once, without a checkpoint: the data goes with it
        server.wait(20)
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(150):
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(f"PostgreSQL did not answer within 15 s:\n{log.read_text()}")
