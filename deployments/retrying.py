"""`empelt retry`: takes holds off and gives used-up jobs new attempts; the next watch takes them up again."""

from typing import Any

from deployments.starting import require_server, start_on
from tasks.domain.errors import InputError
from tasks.domain.records import Hold
from tasks.domain.words import moment
from tasks.doors import open_ledger
from tasks.ledger import lift_hold
from tasks.settings import Settings
from tasks.standing import stopped


def retry(settings: Settings, what: str, *, now: bool) -> dict[str, Any]:
    """Lift everything that ``what`` names; what was lifted.

    Raises:
        InputError: if nothing of that name is stopped; the message lists what is.
        EndpointUnavailable: with ``now``, if no server is up. Nothing was lifted then.
    """
    if now:
        require_server(settings)
    lifted = lift_hold(what, "empelt retry")
    if not lifted:
        raise InputError(f"nothing called {what!r} is held or has used up its attempts{_listed(stopped())}")
    report: dict[str, Any] = {"lifted": [_told(hold) for hold in lifted], "watch_run": None}
    if now:
        report["watch_run"] = start_on(settings, "watch-hub/schedule", {}, tags=["retry"])
    return report


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"lifted   {one['what']} (since {one['since']}): {one['why']}" for one in report["lifted"]]
    run = report["watch_run"]
    lines.append(f"watch    {run}" if run else "The next watch takes it up; `--now` starts one.")
    return "\n".join(lines)


def _told(hold: Hold) -> dict[str, str]:
    return {"what": hold.key, "why": hold.reason, "since": moment(hold.at)}


def _listed(held: list[Hold]) -> str:
    if not held:
        return "; nothing at all is"
    names = {fact.job_key: fact.job.name for fact in open_ledger().jobs()}
    return "; what is:" + "".join(f"\n  - {names.get(hold.key, hold.key)}: {hold.reason}" for hold in held)
