"""Hosts on one machine: a network namespace and a home for each, and the servers that run on them.

Where namespaces are not allowed (`ip netns` needs root), every host is on loopback, with ports of its own; a test says
which of the two it ran on. All processes end with the test, killed if need be: each carries the mark of its network.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MARK = "EMPELT_INSTANCE"
FETCH = (
    "import json,sys,urllib.request as u;"
    "b=json.dumps(json.loads(sys.argv[2])).encode() if len(sys.argv)>2 else None;"
    "r=u.Request(sys.argv[1],b,{'content-type':'application/json'});"
    "print(u.urlopen(r,timeout=20).read().decode())"
)


@dataclass
class Host:
    """One host: where its commands run, under which address it is known, what its processes have in common."""

    name: str
    address: str
    home: Path
    prefix: tuple[str, ...]
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *command: object, user: Sequence[str] = (), **variables: str) -> subprocess.Popen[bytes]:
        """A process of this host, with a log of its own; it does not outlive us."""
        wrapped = [*self.prefix, "setpriv", *user, "--pdeathsig", "SIGKILL", "--", *map(str, command)]
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/" if user else self.home,
                env={**self.environment, **variables},
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *command: object, seconds: float = 120, **variables: str) -> str:
        """What a command on this host prints; fails with what it said."""
        done = subprocess.run(
            [*self.prefix, *map(str, command)],
            cwd=self.home,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def empelt(self, *arguments: str) -> dict[str, Any]:
        """What ``empelt ... --json`` prints on this host."""
        return dict(json.loads(self.run(sys.executable, "-m", "deployments", *arguments, "--json")))

    def ask(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that ``url`` answers to this host."""
        return json.loads(self.run(sys.executable, "-c", FETCH, url, *([json.dumps(body)] if body else [])))

    def answers(self, url: str) -> bool:
        """Whether ``url`` answers to this host."""
        command = [*self.prefix, sys.executable, "-c", FETCH, url]
        return not subprocess.run(command, env=self.environment, capture_output=True, timeout=60).returncode

    def log(self, name: str) -> str:
        """What a process of this host has said."""
        return (self.home / f"{name}.log").read_text(errors="replace")


def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Wait for a condition and return what it found; fails with what it was waiting for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def free_port() -> int:
    """A port that nobody has on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def may_have_namespaces() -> bool:
    """Whether this machine lets us make network namespaces and join them."""
    name = f"empt-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True) if shutil.which("ip") else None
    if made is None or made.returncode:
        return False
    joined = subprocess.run(["ip", "link", "add", f"t{os.getpid()}", "netns", name, "type", "bridge"])
    subprocess.run(["ip", "netns", "del", name], check=True)
    return joined.returncode == 0


@contextmanager
def hosts(folder: Path, names: Sequence[str], common: dict[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts with these names, that reach each other and nothing else; everything on them ends on leaving."""
    mark = str(uuid.uuid4())
    kept = {
        key: os.environ[key] for key in ("PATH", "HOME", "LANG", "PYTHONPATH", "UV_FIND_LINKS") if key in os.environ
    }
    paths = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    shared = {**kept, "PYTHONPATH": paths, "NO_PROXY": "*", "no_proxy": "*", MARK: mark, **common}
    apart = may_have_namespaces()
    found: dict[str, Host] = {}
    made: list[str] = []
    try:
        if apart:
            made.append(_namespace("switch"))
            _ip("-n", made[0], "link", "add", "br0", "type", "bridge")
            _ip("-n", made[0], "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            home = folder / name
            home.mkdir(parents=True)
            prefix: tuple[str, ...] = ()
            address = "127.0.0.1"
            if apart:
                made.append(_namespace(name))
                address = f"10.99.7.{number}"
                _plug(made[-1], made[0], number, address)
                prefix = ("ip", "netns", "exec", made[-1])
            own = {"EMPELT_HOME": str(home / "home"), "PREFECT_HOME": str(home / "prefect"), "HOME": str(home)}
            found[name] = Host(name, address, home, prefix, {**shared, **own})
        yield found
    finally:
        for host in reversed(list(found.values())):
            end(host.started)
        end_marked(mark)
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "del", namespace], check=False)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM, last started first, then SIGKILL."""
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_marked(mark: str) -> None:
    """Whatever those have left: flow runs, instances."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                process.kill()
        except psutil.Error:
            continue


def start_postgres(host: Host, port: int, databases: Sequence[str]) -> str:
    """A PostgreSQL that asks for a password; the address of a database but for its name."""
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    binaries = installed[-1].parent if installed else Path(on_path or "").resolve().parent
    password, data = secrets.token_hex(16), host.home / "postgres"
    data.mkdir()
    (host.home / "password").write_text(password)
    user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    if user:
        for path in (data, host.home / "password"):
            shutil.chown(path, "postgres", "postgres")
    flags = ["-U", "empelt", "-A", "scram-sha-256", f"--pwfile={host.home / 'password'}", "--no-sync", "-E", "UTF8"]
    host.run("setpriv", *user, "--", binaries / "initdb", "-D", data, *flags)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.99.7.0/24 scram-sha-256\n")
    settings = {"listen_addresses": host.address, "port": port, "unix_socket_directories": "", "fsync": "off"}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    host.start("postgres", binaries / "postgres", "-D", data, *options, user=user)
    url = f"postgresql://empelt:{password}@{host.address}:{port}"
    make = (
        "import psycopg,sys\n"
        "with psycopg.connect(sys.argv[1]+'/postgres',autocommit=True) as c:\n"
        "    [c.execute('CREATE DATABASE '+name) for name in sys.argv[2:]]"
    )
    ready = [*host.prefix, str(binaries / "pg_isready"), "-q", "-h", host.address, "-p", str(port)]
    until(lambda: not subprocess.run(ready).returncode, seconds=30, what="PostgreSQL")
    host.run(sys.executable, "-c", make, url, *databases)
    return url


def start_redis(host: Host, port: int) -> str:
    """A Redis that asks for a password and keeps nothing; its address."""
    password, folder = secrets.token_hex(16), host.home / "redis"
    folder.mkdir()
    settings = f"bind {host.address}\nport {port}\nrequirepass {password}\nsave ''\nappendonly no\ndir {folder}\n"
    (folder / "redis.conf").write_text(settings.replace("''", '""'))
    host.start("redis", "redis-server", folder / "redis.conf")
    url = f"redis://default:{password}@{host.address}:{port}/0"
    until(lambda: "PONG" in redis(host, url, "PING", check=False), seconds=20, what="Redis")
    return url


def redis(host: Host, url: str, *command: str, check: bool = True) -> str:
    """What Redis answers to a command."""
    asked = ["redis-cli", "--no-auth-warning", "-u", url, *command]
    done = subprocess.run([*host.prefix, *asked], env=host.environment, capture_output=True, text=True, timeout=20)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def _namespace(name: str) -> str:
    full = f"empt-{os.getpid()}-{name}"
    _ip("netns", "add", full)
    _ip("-n", full, "link", "set", "lo", "up")
    return full


def _plug(namespace: str, switch: str, number: int, address: str) -> None:
    _ip("-n", switch, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
