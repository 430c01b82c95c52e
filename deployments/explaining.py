"""`empelt explain`: all that is known about one repository, artifact or channel, and what would make it due again.

The ledger is asked first and the Hub where it answers; nothing is recorded.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.planning import plan_family
from deployments.starting import run_address
from tasks.admission import examine
from tasks.domain.catalog import Family
from tasks.domain.due import PlanRow
from tasks.domain.errors import HubUnavailable, InputError, ModelRefused
from tasks.domain.jobs import parse_release, run_name
from tasks.domain.models import ChannelState, Digest, ModelRef
from tasks.domain.records import VerdictFact
from tasks.doors import open_catalog, open_ledger, open_source
from tasks.heads import resolve
from tasks.settings import Settings
from tasks.sources.preflight import preflight
from tasks.sources.protocol import RepoState

Told = dict[str, Any]
LEAST_DIGITS = 6
"""Of an artifact's digest; fewer could mean several, or a channel."""


def explain(settings: Settings, what: str, *, offline: bool) -> Told:
    """All that is known about ``what``.

    Args:
        settings: of this installation.
        what: ``owner/name``, ``owner/name@sha``, a channel, or the beginning of an artifact's digest.
        offline: leave the Hub alone.

    Raises:
        InputError: if ``what`` is none of these, or nothing at all is known of it.
    """
    if "/" in what:
        return _repository(settings, what, offline=offline)
    if state := open_ledger().channel(what):
        return {"kind": "channel", **_channel(settings, state)}
    if re.fullmatch(rf"[0-9a-f]{{{LEAST_DIGITS},64}}", what):
        return _artifact(settings, what)
    channels = [state.channel for state in open_ledger().channels()]
    raise InputError(
        f"{what!r} is nothing that can be explained: give owner/name, owner/name@sha, a channel ({channels}), or at "
        f"least {LEAST_DIGITS} digits of an artifact's digest"
    )


# --- a repository ----------------------------------------------------------------------------------------------------
def _repository(settings: Settings, what: str, *, offline: bool) -> Told:
    repo, revision = parse_release(what)
    state, hub = (None, {"says": "not asked"}) if offline else _at_the_hub(repo)
    families = list(open_catalog().families.values())
    records = [r for f in families for r in open_ledger().releases(f.family) if r.ref.repo_id == repo]
    holds = [h for h in open_ledger().holds() if h.key.startswith(f"release:{repo}@")]
    seen = open_ledger().repo_seen(repo)
    roles = [role for family in families for role in _roles(family, repo)]
    if state is None and not records and not holds and not roles and seen is None:
        raise InputError(f"nothing is known of {repo}: it was never seen here; the Hub: {hub['says']}")
    ref = _ref(repo, revision, state, [r.ref for r in records])
    told: Told = {"kind": "repository", "repo": repo, "revision": ref.revision if ref else None, "hub": hub}
    told["roles"] = roles
    told["recognition"] = [_recognised(f, state) for f in families] if state else []
    told["preflight"] = [_preflight(f, ref) for f in families if state and ref and _may_be(f, repo)]
    told["releases"] = [
        {
            **{"family": r.family, "revision": r.ref.revision, "content_digest": r.content_digest},
            **{"released_at": r.released_at.isoformat(), "seen_at": r.seen_at.isoformat()},
        }
        for r in records
    ]
    told["holds"] = [{"what": h.key, "why": h.reason, "since": h.at.isoformat()} for h in holds]
    told["jobs"] = [
        job
        for family in families
        if _may_be(family, repo)
        for job in _jobs(settings, family, repo, revision, offline=offline or state is None)
    ]
    return told


def _at_the_hub(repo: str) -> tuple[RepoState | None, Told]:
    try:
        state = open_source().state(repo)
    except (ModelRefused, HubUnavailable) as error:
        return None, {"says": str(error)}
    told = {"head": state.sha, "last_modified": state.last_modified.isoformat(), "private": state.private}
    words = [word for word in ("private", "gated", "disabled") if getattr(state, word)]
    says = f"head {state.sha[:12]} of {state.last_modified:%Y-%m-%d %H:%M} UTC" + "".join(f", {word}" for word in words)
    return state, {**told, "gated": state.gated, "disabled": state.disabled, "says": says}


def _ref(repo: str, revision: str | None, state: RepoState | None, known: Sequence[ModelRef]) -> ModelRef | None:
    """The exact state that is meant: the head, or what is on record under the beginning of a sha."""
    if revision is None:
        return state.ref if state else known[-1] if known else None
    found = next((ref for ref in known if ref.revision.startswith(revision)), None)
    return found or (open_source().resolve(repo, revision) if state else None)


def _roles(family: Family, repo: str) -> list[Told]:
    """What the catalog says that the repository is."""
    found: list[tuple[str, str | None]] = [("base", None)] if family.base.repo == repo else []
    for code, tuned in family.tuned_bases.items():
        found += [("tuned base", code)] if tuned.repo == repo else []
        found += [("parent", code)] if tuned.parent and tuned.parent.repo == repo else []
    return [{"family": family.family, "role": role, "language": code} for role, code in found]


def _may_be(family: Family, repo: str) -> bool:
    """Whether the family's releases come from this owner and have such names."""
    return repo.split("/")[0] in family.instruct.organizations and bool(re.fullmatch(family.instruct.pattern, repo))


def _recognised(family: Family, state: RepoState) -> Told:
    owner = state.repo_id.split("/")[0]
    if owner not in family.instruct.organizations:
        why = f"{owner} is none of its organizations: {', '.join(family.instruct.organizations)}"
        return {"family": family.family, "verdict": "ignored", "cause": "organization", "reason": why, "notes": []}
    found = examine(family, state, datetime.now(UTC))
    told = found.model_dump(mode="json", include={"verdict", "cause", "reason", "notes"})
    return {"family": family.family, **told}


def _preflight(family: Family, ref: ModelRef) -> Told:
    try:
        report = preflight(open_source(), ref, resolve(family.base), allowed_architectures=family.architectures)
    except ModelRefused as refusal:
        return {"family": family.family, "ok": False, "problems": list(refusal.problems) or [str(refusal)]}
    told = report.model_dump(mode="json", exclude={"release", "base"})
    return {"family": family.family, "ok": True, "problems": [], **told}


# --- its jobs --------------------------------------------------------------------------------------------------------
def _jobs(settings: Settings, family: Family, repo: str, revision: str | None, *, offline: bool) -> list[Told]:
    """Where each target stands with this release, by the same plan as the watch's."""
    rows = [planned.row for planned in plan_family(family, offline=offline).rows]
    chosen = [r for r in rows if r.release.ref.repo_id == repo and r.release.ref.revision.startswith(revision or "")]
    return [_job(settings, row) for row in chosen]


def _job(settings: Settings, row: PlanRow) -> Told:
    ledger = open_ledger()
    end, attempts = ledger.job_end(row.job_key), ledger.attempts_of(row.job_key)
    verdict = next((v for v in ledger.verdicts(row.family, row.target) if v.job_key == row.job_key), None)
    runs = [end.flow_run_id] if end and end.flow_run_id else []
    runs += [a.owner.removeprefix("run:") for a in attempts if a.owner.startswith("run:")]
    return {
        **{"family": row.family, "target": row.target, "channel": row.channel, "job": row.job_key},
        **{"revision": row.release.ref.revision, "standing": row.standing, "why": row.reason},
        "outcome": end.outcome if end else None,
        "attempts": len(attempts),
        "verdict": _verdict(settings, verdict) if verdict else None,
        "runs": [run_address(settings, run) for run in dict.fromkeys(runs) if re.fullmatch(r"[0-9a-f-]{36}", run)],
        "due_again": _due_again(row),
    }


def _verdict(settings: Settings, fact: VerdictFact) -> Told:
    """Outcome, reasons, scores of the slices that a comparison with the live model goes by, and the page's files."""
    rows = [row for row in fact.payload.get("rows", ()) if row.get("critical")]
    kept = ("benchmark", "metric", "score", "stderr", "n", "limit", "parents", "live", "ok")
    return {
        "outcome": fact.outcome,
        "at": fact.at.isoformat(),
        "reasons": list(fact.payload.get("reasons", ())),
        "critical": [{name: row.get(name) for name in kept} for row in rows],
        **page_of(settings.home, fact),
    }


def page_of(home: Path, fact: VerdictFact) -> Told:
    """``page``: where the verdict's page lies; ``document``: the same as JSON, by the schema ``empelt.verdict``."""
    pages = sorted((home / "reports" / f"{fact.family}-{fact.target}").glob(f"*-{fact.verdict_key[:12]}.html"))
    if not pages:
        return {"page": None, "document": None}
    document = pages[0].with_suffix(".json")
    told = json.loads(document.read_text(encoding="utf-8")) if document.is_file() else None
    return {"page": str(pages[0]), "document": told}


def _due_again(row: PlanRow) -> str:
    name = run_name(row.release.ref, row.target)
    changed = "a changed gate or recipe, or new weights of the base or a tuned base"
    return {
        "due": "it is due now: the next watch takes it",
        "running": "it is under way",
        "waiting": "it waits for a person's approval in the UI",
        "held": f"`empelt retry '{name}'`; or {changed}",
        "exhausted": f"`empelt retry '{name}'`; or {changed}",
        "done": f"{changed}; or a run of remerge-release by hand",
        "superseded": f"nothing by itself; `empelt backfill {row.family} --target {row.target}` brings older ones too",
        "older": "nothing by itself: only a run of remerge-release by hand goes back",
    }[row.standing]


# --- an artifact, a channel ------------------------------------------------------------------------------------------
def _artifact(settings: Settings, digits: str) -> Told:
    ledger = open_ledger()
    states = [p for state in ledger.channels() for p in ledger.promotions(state.channel)]
    judged = {str(v.payload.get("candidate_digest", "")) for v in ledger.verdicts()}
    found = sorted({d for d in (*judged, *(p.artifact_digest for p in states)) if d.startswith(digits)})
    if len(found) != 1:
        raise InputError(
            f"{len(found)} artifacts begin with {digits}: {', '.join(d[:16] for d in found)}; give more digits"
            if found
            else f"no artifact that was judged or served here begins with {digits}"
        )
    return {"kind": "artifact", **_made(settings, found[0])}


def _channel(settings: Settings, state: ChannelState) -> Told:
    return {
        **{"channel": state.channel, "generation": state.generation, "target": state.target, "family": state.family},
        **{"release": str(state.release), "since": state.switched_at.isoformat()},
        "visible": state.acknowledged_generation >= state.generation,
        **_made(settings, state.artifact_digest),
    }


def _made(settings: Settings, digest: Digest) -> Told:
    """Where an artifact comes from, how it was judged, and where it was served."""
    ledger = open_ledger()
    lineage = ledger.lineage(digest)
    verdicts = [v for v in ledger.verdicts() if v.payload.get("candidate_digest") == digest]
    served = [p for s in ledger.channels() for p in ledger.promotions(s.channel) if p.artifact_digest == digest]
    return {
        "artifact": digest,
        "lineage": lineage.model_dump(mode="json") if lineage else None,
        "verdicts": [{"family": v.family, "target": v.target, **_verdict(settings, v)} for v in verdicts],
        "promotions": [
            {
                **{"channel": p.channel, "generation": p.generation, "at": p.at.isoformat(), "why": p.reason},
                "run": run_address(settings, p.flow_run_id) if p.flow_run_id else None,
            }
            for p in served
        ],
    }
