"""`empelt base retire`: no new merge is made of a tuned base. Its entry stays, with the reason.

What is live stays live until a person rolls it back or a successor's merge takes its place. Jobs that wait for it end
with the reason; one that is under way comes to its own end. Its files are collected after the grace, once nothing of
what serves needs them.
"""

from typing import Any

from deployments.adding import refresh
from deployments.base_names import Named, find_base
from tasks.domain.errors import InputError
from tasks.domain.models import ModelRef
from tasks.doors import open_catalog, open_ledger
from tasks.retired import end_retired
from tasks.settings import Settings
from tasks.standing import standings


def retire(settings: Settings, name: str, reason: str, *, dry_run: bool) -> dict[str, Any]:
    """Take a tuned base out of use.

    Args:
        settings: of this installation.
        name: ``family/language``, or the repository.
        reason: recorded, and shown wherever a target waits for a successor.
        dry_run: say what would become of it, write nothing.

    Raises:
        InputError: no such base, no reason, or it was retired before. Nothing was written then.
    """
    named, reason = find_base(settings, name), " ".join(reason.split())
    if not reason:
        raise InputError(f"say why {named.name} is retired, as in --reason 'its licence was withdrawn'")
    if named.entry.retired:
        raise InputError(f"{named.name} was retired before: {named.entry.retired}")
    named.file.state(named.language, retired=reason)
    named.file.check(settings.family_names)
    told: dict[str, Any] = {
        **{"name": named.name, "family": named.family.family, "language": named.language, "repo": named.entry.repo},
        **{"revision": named.entry.revision, "reason": reason, "targets": named.targets, "live": _live(named)},
        **{"under_way": _under_way(named), "ended": [], "file": str(named.file.path), "changes": named.file.changes},
        **{"dry_run": dry_run, "written": False, "forms": ""},
    }
    if dry_run:
        return told
    told["written"] = named.file.save()
    open_catalog.cache_clear()
    family, ledger = open_catalog().families.get(named.family.family), open_ledger()
    for target in named.targets if family else []:
        if family is not None and target in family.targets:  # not all may run here (EMPELT_TARGETS)
            told["ended"] += end_retired(family, target)
    where: dict[str, Any] = {"repo_id": named.entry.repo, "revision": named.entry.revision}
    details = {"reason": reason, "ended": told["ended"]}
    ledger.record_base_change(named.family.family, named.language, "retired", **where, details=details)
    told["forms"] = refresh(settings)
    return told


def _live(named: Named) -> list[dict[str, Any]]:
    """The channels of its targets, and what each goes on serving."""
    states = {state.channel: state for state in open_ledger().channels()}
    channels = dict.fromkeys(named.family.targets[name].channel for name in named.targets)
    found: list[tuple[str, ModelRef]] = [(name, states[name].release) for name in channels if name in states]
    return [{"channel": name, "release": str(release)} for name, release in found]


def _under_way(named: Named) -> list[str]:
    """Jobs that somebody is at work on, or whose candidate waits for a person."""
    facts = [fact for fact in open_ledger().jobs(named.family.family) if fact.job.target in named.targets]
    stands = standings(facts)
    return [fact.job.name for fact in facts if stands[fact.job_key].standing in ("running", "waiting")]


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    would = "would be " if report["dry_run"] else ""
    lines = [f"{report['name']} ({report['repo']}) {would}retired: {report['reason']}"]
    lines.append(f"no new merge for: {', '.join(report['targets']) or 'no target uses it'}")
    lines += [f"stays     {live['channel']} serves {live['release']}" for live in report["live"]]
    lines += [f"goes on   {name}" for name in report["under_way"]]
    lines += [f"ended     {name}" for name in report["ended"]]
    lines += ["", report["changes"], "", f"{'wrote' if report['written'] else 'would write'} {report['file']}"]
    return "\n".join([*lines, f"A successor: empelt base update {report['name']} OWNER/NAME"])
