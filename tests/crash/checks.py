"""What must hold when a release has come to its end, whatever was killed on the way."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from sqlalchemy import text

from tests.crash.system import CHANNELS, Caller, Matrix

WATCH = "watch-hub"
"""The turn that keeps two watches apart."""
WORKING = ("prefect.engine", "tasks.tether", "tasks.harness", "tasks.engine")
"""In the command line of what works for a run."""
INSTANCE = "vllm_plain.py"
"""In that of what stands for vLLM."""
GATEWAY_SECONDS = 60.0
"""How long a killed gateway may be away; a new one imports for seconds on a busy machine."""


def commands(matrix: Matrix) -> list[tuple[psutil.Process, str]]:
    """Every process of the installation with its command line."""
    found = []
    for process in matrix.installation.processes():
        try:
            found.append((process, " ".join(process.cmdline())))
        except psutil.Error:
            continue
    return found


def instances(matrix: Matrix) -> list[str]:
    """The command lines of what stands for vLLM."""
    return [command for _, command in commands(matrix) if INSTANCE in command]


def busy(matrix: Matrix, active: Sequence[str]) -> list[str]:
    """What has still to come to rest beside the runs that are active; nothing, once all is as it should stay."""
    found, seen = [f"run {name}" for name in active], [command for _, command in commands(matrix)]
    found += [f"process {command[:90]}" for command in seen if any(w in command for w in WORKING)]
    found += [f"claim of {claim.owner} on {claim.job_key[:12]}" for claim in matrix.ledger.live_claims()]
    turn = matrix.ledger.turn_of(WATCH)
    found += [f"turn of {turn.owner} to watch"] if turn is not None else []
    found += [f"wish of {wish.owner} for {wish.digest[:12]}" for wish in matrix.ledger.desired().staged]
    states = matrix.ledger.channels()
    # What a channel served before stays up, so that a rollback takes seconds.
    wanted = {digest for state in states for digest in (state.artifact_digest, state.previous_digest) if digest}
    up = Counter(
        digest for command in seen if INSTANCE in command for digest in re.findall(r"artifacts/([0-9a-f]{64})", command)
    )
    found += [f"an instance of {digest[:12]}, which nobody wants" for digest in up if digest not in wanted]
    found += [f"no instance of {state.channel}" for state in states if state.artifact_digest not in up]
    return found


def left_behind(matrix: Matrix) -> Iterator[str]:
    """Temporary files of what is gone."""
    home = matrix.home
    for folder in (home / "run" / "children", home / "store" / "scratch", home / "store" / "owners"):
        yield from (f"left behind: {path.relative_to(home)}" for path in (folder.iterdir() if folder.is_dir() else ()))
    for room in ("run", "store", "logs"):
        for path in (home / room).rglob("*"):
            if path.suffix in (".half", ".new", ".tmp") or path.name.endswith(".part"):
                yield f"left behind: {path.relative_to(home)}"
    for folder in (home / "tmp", *(home / "run" / "tmp").glob("*")):
        yield from (f"left behind: {path.relative_to(home)}" for path in folder.iterdir())
    used = " ".join(instances(matrix))
    answering = {f"gateway-{process.pid}.sock" for process, _ in commands(matrix)} | {"launcher.sock"}
    for path in (home / "run").glob("*.sock"):
        if path.name not in answering and str(path) not in used:
            yield f"left behind: {path.relative_to(home)}"


def doubled(matrix: Matrix, since: float, most_attempts: int) -> Iterator[str]:
    """Facts that are there twice, and jobs with more attempts since a moment than there were kills."""
    twice = {
        "switches for one claim": "SELECT claim_key, count(*) FROM promotions WHERE claim_key IS NOT NULL"
        " GROUP BY claim_key HAVING count(*) > 1",
        "good ends of one job": "SELECT job_key, count(*) FROM job_ends WHERE outcome IN ('published', 'kept',"
        " 'rejected') GROUP BY job_key HAVING count(*) > 1",
        "artifacts for one merge": "SELECT merge_key, count(*) FROM merges GROUP BY merge_key HAVING count(*) > 1",
        "records of one release": "SELECT content_digest, count(*) FROM releases GROUP BY family, content_digest"
        " HAVING count(*) > 1",
    }
    with matrix.ledger._engine.connect() as connection:
        for what, query in twice.items():
            for key, count in connection.execute(text(query)):
                yield f"{what}: {count} x {str(key)[:12]}"
        for channel in CHANNELS.values():
            asked = text("SELECT generation FROM promotions WHERE channel = :channel ORDER BY generation")
            found = [row.generation for row in connection.execute(asked, {"channel": channel})]
            if found != list(range(1, len(found) + 1)):
                yield f"generations of {channel} are {found}"
    for fact in matrix.ledger.jobs():
        made = [one for one in matrix.ledger.attempts_of(fact.job_key) if one.at.timestamp() > since]
        if len(made) > most_attempts:
            yield f"{len(made)} attempts at {fact.job.name} for {most_attempts - 1} kills"


def unserved(matrix: Matrix, caller: Caller, began: float, away: list[float]) -> Iterator[str]:
    """Answers that were neither the old nor the new artifact's, and refusals that nothing explains.

    Args:
        matrix: the installation.
        caller: who has asked the channel.
        began: since when, in seconds since the epoch.
        away: when the gateway was killed.
    """
    known = {f"{p.channel}@{p.artifact_digest[:12]}" for p in matrix.ledger.promotions(CHANNELS["auto"])}
    strange = {model for when, model in caller.answers if when >= began and model not in known}
    yield from (f"an answer of {model}, which was never promoted" for model in strange)
    refused = [
        (when, why)
        for when, why in caller.refusals
        if when >= began and not any(0 <= when - killed <= GATEWAY_SECONDS for killed in away)
    ]
    if refused:
        yield f"{len(refused)} requests refused, the first: {refused[0][1]}"


def log_of(matrix: Matrix, name: str, lines: int = 6) -> str:
    """The end of a child's log, for a row that went wrong."""
    path = Path(matrix.home) / "logs" / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
