"""What becomes of the jobs of a tuned base that was retired: none is begun, and those that wait end with the reason.

What is live stays live. A job that is under way, or whose candidate waits for a person, comes to its own end.
"""

from collections.abc import Collection

from tasks.domain.catalog import Family, TunedBase
from tasks.domain.errors import CatalogError, ModelRefused
from tasks.doors import open_catalog, open_ledger
from tasks.standing import standings

WAITING = ("open", "held", "exhausted")
"""Standings of a job that nobody works on."""
NOT_MERGED = "not merged: "
"""How the reason of such an end begins."""


def in_use(family: Family, code: str) -> TunedBase:
    """The tuned base of a language; ModelRefused, with the reason, if it was retired."""
    tuned = family.tuned_bases[code]
    if tuned.retired:
        raise ModelRefused(_told(family, code))
    return tuned


def retired_languages(family: Family, target: str) -> list[str]:
    """The languages of a target whose tuned base was retired: no new merge is made for it while there is one."""
    return [code for code in family.targets[target].languages if family.tuned_bases[code].retired]


def retired_roles(family: str) -> set[str]:
    """Roles of ingredients that no new merge of the family will have; none if it does not run here."""
    try:
        bases = open_catalog().family(family).tuned_bases
    except CatalogError:  # or a catalog that was damaged since: then nothing is given up
        return set()
    return {f"tuned:{code}" for code, tuned in bases.items() if tuned.retired}


def end_retired(family: Family, target: str) -> list[str]:
    """End the jobs of a target that wait for a retired base, with the reason; their names. Safe to repeat."""
    codes = retired_languages(family, target)
    if not codes:
        return []
    ledger, why = open_ledger(), "; ".join(_told(family, code) for code in codes)
    facts = [fact for fact in ledger.jobs(family.family) if fact.job.target == target]
    stands, ended = standings(facts), []
    for fact in {fact.job_key: fact for fact in facts}.values():
        if stands[fact.job_key].standing not in WAITING:
            continue
        ledger.record_job_end(fact.job_key, "rejected", f"{NOT_MERGED}{why}")
        ended.append(fact.job.name)
    return ended


def reopen(family: str, targets: Collection[str], name: str) -> list[str]:
    """Take up again the jobs that ended because a base was retired, which is back as it was; their names."""
    ledger, again = open_ledger(), []
    for fact in ledger.jobs(family):
        end = ledger.job_end(fact.job_key) if fact.job.target in targets else None
        if end is not None and end.outcome == "rejected" and end.reason.startswith(NOT_MERGED):
            ledger.record_job_end(fact.job_key, "failed", f"the tuned base {name} is in use again")
            again.append(fact.job.name)
    return again


def _told(family: Family, code: str) -> str:
    tuned = family.tuned_bases[code]
    return (
        f"the tuned base {code!r} of {family.family}, {tuned.repo}, was retired: {tuned.retired}. A successor takes "
        f"its place by `empelt base update {family.family}/{code} OWNER/NAME`"
    )
