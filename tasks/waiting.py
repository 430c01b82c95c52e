"""Candidates that wait for a person, and how people name them. By the ledger alone: no Prefect here."""

from tasks.domain.errors import InputError
from tasks.domain.jobs import run_name
from tasks.domain.records import Approval
from tasks.doors import open_ledger


def name_of(waiting: Approval) -> str:
    """``llama-tiny-instruct-v2 x eu (3f2a00112233)``: release, target, artifact."""
    request = waiting.request
    return f"{run_name(request.release, request.target)} ({request.artifact_digest[:12]})"


def find_waiting(text: str) -> Approval:
    """The one that ``text`` names: its name as listed, or the beginning of its artifact's digest or job's key.

    The newest, where one artifact waits for one channel as several jobs: its gate was edited meanwhile.

    Raises:
        InputError: if none or several do; all that wait are listed.
    """
    all_of_them = open_ledger().awaiting_approval()
    wanted = text.strip()
    named = [w for w in all_of_them if wanted == name_of(w)]
    keys = [
        w for w in all_of_them if wanted and any(k.startswith(wanted) for k in (w.request.artifact_digest, w.job_key))
    ]
    found = named or keys
    if len({(w.request.channel, w.request.artifact_digest) for w in found}) != 1:
        meant = "names no candidate that waits" if not found else "names several candidates"
        raise InputError(
            f"{text!r} {meant} for approval; give one of these", problems=[name_of(w) for w in all_of_them] or ["none"]
        )
    return found[-1]
