"""``make compare-gates``: what other gates and this one decide on the same stored results, as a table.

Each other gate gets an environment of its own under a temporary folder, from the pins beside this file, by ``uv`` and a
package index; nothing of it touches this project's. What cannot be installed or run is "not run", with the reason.

--envs FOLDER     keep and use the environments there
--python-312 BIN  an interpreter of Python 3.12 or 3.13, which NeMo Evaluator needs (found by uv if not given)
--why             the reasons, too
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.other_gates import own
from tests.bench.other_gates.cases import cases

HERE = Path(__file__).parent
Answers = dict[str, tuple[str, str]]


class Peer(NamedTuple):
    """Another gate."""

    title: str
    licence: str
    package: str
    """As its index names it; its pins are in ``pins-<package>.txt``."""
    adapter: str
    python: str


PEERS = (
    Peer("nel gate", "Apache-2.0", "nemo-evaluator", "nel_gate.py", "3.12"),
    Peer("MLflow validation", "Apache-2.0", "mlflow", "mlflow_thresholds.py", "3.11"),
    Peer("cigate", "MIT", "cigate", "cigate_gate.py", "3.11"),
)


def version(peer: Peer) -> str:
    """The pinned one."""
    pins = (HERE / f"pins-{peer.package}.txt").read_text("utf-8").splitlines()
    return next(line.split("==")[1] for line in pins if line.startswith(f"{peer.package}=="))


def asked(peer: Peer, envs: Path, python: str, given: str) -> Answers | str:
    """What it answers, or why it could not be run."""
    place = envs / peer.package
    binary, uv = place / "bin/python", shutil.which("uv") or ".venv-tools/bin/uv"
    try:
        if not binary.exists():
            subprocess.run([uv, "venv", "-q", "-p", python, place], check=True, capture_output=True, text=True)
            pins = HERE / f"pins-{peer.package}.txt"
            install = [uv, "pip", "install", "-q", "--no-deps", "-p", binary, "-r", pins]
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=900)
        # Alone: its own folder, no search path of this project.
        command = [binary, "-P", HERE / peer.adapter]
        done = subprocess.run(command, input=given, check=True, capture_output=True, text=True, timeout=900)
    except FileNotFoundError as error:
        return f"{error.filename} is not there"
    except subprocess.TimeoutExpired as error:
        return f"took longer than {error.timeout:.0f} s"
    except subprocess.CalledProcessError as error:
        return " ".join((error.stderr.strip() or f"exit {error.returncode}").splitlines()[-2:])
    return {name: (said[0], said[1]) for name, said in json.loads(done.stdout).items()}


def main() -> int:
    """Ask all, print one table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.other_gates")
    parser.add_argument("--envs", type=Path)
    parser.add_argument("--python-312", default="3.12")
    parser.add_argument("--why", action="store_true")
    arguments = parser.parse_args()
    found = cases()
    given: list[dict[str, Any]] = [case.given() for case in found]
    with tempfile.TemporaryDirectory() as scratch:
        envs = (arguments.envs or Path(scratch)).absolute()
        pythons = {"3.12": arguments.python_312, "3.11": sys.executable}
        told = {peer.title: asked(peer, envs, pythons[peer.python], json.dumps(given)) for peer in PEERS}
    told["this gate"] = {one["name"]: own.decide(one) for one in given}
    print("| case | " + " | ".join(told) + " |")
    print("|---" * (len(told) + 1) + "|")
    for case in found:
        said = [("not run", "") if isinstance(answers, str) else answers[case.name] for answers in told.values()]
        cells = [word if word in (*case.wanted, "not run") else f"**{word}**" for word, _ in said]
        print(f"| {case.name} | " + " | ".join(cells) + " |")
    print("\n**Bold**: not what a gate should say that knows its own uncertainty.\n")
    for peer in PEERS:
        answers = told[peer.title]
        state = f"not run: {answers}" if isinstance(answers, str) else "run"
        print(f"- {peer.title}: {peer.package} {version(peer)}, {peer.licence}, {state}")
    if arguments.why:
        for title, answers in told.items():
            for name, (word, why) in ({} if isinstance(answers, str) else answers).items():
                print(f"\n{title}, {name}: {word}\n    {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
