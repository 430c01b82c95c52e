"""`empelt status`: what serves, since when, from which release, by which verdict; what runs, and what waits and why."""

from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.domain.records import Hold
from tasks.standing import stopped
from tasks.store.ledger import Ledger
from tasks.waiting import name_of


def read_status(ledger: Ledger) -> dict[str, Any]:
    """All of it, from the ledger alone: no server need be up."""
    now = datetime.now(UTC)
    instances = ledger.instances()
    seen = ledger.agent_last_seen()
    channels = []
    for state in ledger.channels():
        verdict = next(
            (
                v
                for v in ledger.verdicts(state.family, state.target)
                if v.payload.get("candidate_digest") == state.artifact_digest
            ),
            None,
        )
        serving = next((i for i in instances if i.channel == state.channel and i.digest == state.artifact_digest), None)
        channels.append(
            {
                "channel": state.channel,
                "release": str(state.release),
                "artifact": state.artifact_digest,
                "generation": state.generation,
                "visible": state.acknowledged_generation >= state.generation,
                "since": state.switched_at.isoformat(timespec="seconds"),
                "verdict": verdict.outcome if verdict else "none on record",
                "instance": f"{serving.state} {serving.reason}".strip() if serving else "none",
                "why": ledger.promotions(state.channel)[0].reason,
            }
        )
    running = [
        {
            "job": str(claim.description.get("name", claim.job_key[:12])),
            "attempt": claim.attempt,
            "lease_seconds_left": round((claim.lease_until - now).total_seconds()),
        }
        for claim in ledger.live_claims()
    ]
    holds = ledger.holds()
    names = {fact.job_key: fact.job.name for fact in ledger.jobs()}
    waiting = [_waiting(hold, names) for hold in holds]
    waiting += [
        {"what": name_of(wish), "why": f"for approval since {wish.at:%Y-%m-%d %H:%M} UTC: {wish.reason}"}
        for wish in ledger.awaiting_approval()
    ]
    held = {hold.key for hold in holds}
    exhausted = [_waiting(hold, names) for hold in stopped() if hold.key not in held]
    recent = [
        {
            "family": v.family,
            "target": v.target,
            "outcome": v.outcome,
            "at": v.at.isoformat(timespec="seconds"),
            "why": str(v.payload.get("reasons", [""])[-1]),
        }
        for v in ledger.verdicts()[:5]
    ]
    heard = None if seen is None else round((now - seen).total_seconds(), 1)
    return {
        "channels": channels,
        "running": running,
        "waiting": waiting,
        "exhausted": exhausted,
        "verdicts": recent,
        "agent_heard_seconds": heard,
    }


def _waiting(hold: Hold, names: Mapping[str, str]) -> dict[str, str]:
    """A hold by its key, and by the job's name where it is on a job."""
    name = {"name": names[hold.key]} if hold.key in names else {}
    return {"what": hold.key, "why": hold.reason, **name}


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    console = Console(record=True, width=140, file=StringIO())
    table = Table(
        "channel", "release", "artifact", "gen", "since", "verdict", "instance", title="Serving", title_justify="left"
    )
    for row in found["channels"]:
        mark = "" if row["visible"] else " (not visible yet)"
        table.add_row(
            row["channel"],
            row["release"],
            row["artifact"][:12],
            f"{row['generation']}{mark}",
            row["since"],
            row["verdict"],
            row["instance"],
        )
    console.print(table if found["channels"] else "Nothing is served yet.")
    for row in found["running"]:
        console.print(f"running  {row['job']}, attempt {row['attempt']}, lease {row['lease_seconds_left']} s")
    for row in found["waiting"]:
        console.print(f"waits    {row.get('name', row['what'])}: {row['why']}", markup=False)
    for row in found["exhausted"]:
        console.print(f"used up  {row.get('name', row['what'])}: {row['why']}", markup=False)
    if found["waiting"] or found["exhausted"]:
        console.print("         Take it up again with `empelt retry NAME`.")
    for row in found["verdicts"]:
        console.print(f"verdict  {row['at']}  {row['family']} x {row['target']}: {row['outcome']}. {row['why']}")
    heard = found["agent_heard_seconds"]
    console.print("agent    never heard of" if heard is None else f"agent    heard of {heard:.0f} s ago")
    return console.export_text()
