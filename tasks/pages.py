"""What the pages of the UI tell, read from the ledger alone."""

from tasks.admission import ruled
from tasks.domain.catalog import Family
from tasks.domain.due import PlanRow
from tasks.domain.models import Release
from tasks.domain.overview import JobView
from tasks.domain.publication import Publication
from tasks.domain.records import Hold, JobFact
from tasks.domain.verdict import Verdict
from tasks.doors import open_ledger
from tasks.sources.detection import name_problem
from tasks.standing import rows_of


def views_of(family: Family, runs: dict[str, str]) -> list[JobView]:
    """Every job of a family that is on record, newest release first.

    Args:
        family: of the catalog.
        runs: job_key -> id of its newest flow run, where Prefect knows one.
    """
    ledger = open_ledger()
    facts = {(f.job.target, f.job.release.content_digest): f for f in ledger.jobs(family.family)}
    found: list[JobView] = []
    for name, target in family.targets.items():
        here = {digest: fact for (of, digest), fact in facts.items() if of == name}
        releases = [release for release in ledger.releases(family.family) if release.content_digest in here]
        keys = {digest: fact.job_key for digest, fact in here.items()}
        planned = ruled(family, releases)
        rows = rows_of(family.family, name, target.channel, planned, keys)
        for release in releases:
            if release not in planned:
                rows += map(_by_hand, rows_of(family.family, name, target.channel, [release], keys))
        found += [_view(here[row.release.content_digest], row, target.languages, runs) for row in rows]
    order = list(family.targets)
    return sorted(found, key=lambda v: (-v.row.release.released_at.timestamp(), order.index(v.row.target)))


def _by_hand(row: PlanRow) -> PlanRow:
    """A row of a release that the family's rule does not know: no watch takes it up."""
    if row.standing not in ("due", "older"):
        return row
    return row.model_copy(update={"standing": "held", "reason": "outside the family's rule: only run by hand"})


def _view(fact: JobFact, row: PlanRow, languages: tuple[str, ...], runs: dict[str, str]) -> JobView:
    ledger = open_ledger()
    end, state = ledger.job_end(fact.job_key), ledger.channel(row.channel)
    verdict = next((v for v in ledger.verdicts(row.family, row.target) if v.job_key == fact.job_key), None)
    made = next((p for p in ledger.promotions(row.channel) if p.claim_key == fact.job_key), None)
    # A rollback serves the same artifact again as a generation of its own: it is the artifact that counts.
    serves = made is not None and state is not None and state.artifact_digest == made.artifact_digest
    return JobView(
        row=row,
        outcome=end.outcome if end else "",
        verdict=Verdict.model_validate(dict(verdict.payload)) if verdict else None,
        generation=state.generation if serves and state else made.generation if made else None,
        serves=serves,
        run=runs.get(fact.job_key) or (end.flow_run_id if end else None),
        times=ledger.stage_times(fact.job),
        languages=languages,
        published=tuple(ledger.publications(made.artifact_digest)) if made else (),
    )


def holds_of(family: Family) -> list[Hold]:
    """Holds on releases of the family and on its targets, as people read their keys."""
    return [hold for hold in open_ledger().holds() if _concerns(hold.key, family)]


def published_of(family: Family) -> list[Publication]:
    """What stands on a Hub of what the family's channels serve now."""
    states = [open_ledger().channel(target.channel) for target in family.targets.values()]
    return [one for state in states if state for one in open_ledger().publications(state.artifact_digest)]


def _concerns(key: str, family: Family) -> bool:
    """Whether what is held is the family's: by the name of the release, since families may share an organisation."""
    kind, _, rest = key.partition(":")
    if kind == "target":
        return rest.startswith(f"{family.family}/")
    repo_id, rule = rest.partition("@")[0], family.instruct
    ours = kind == "release" and repo_id.partition("/")[0] in rule.organizations
    return ours and name_problem(repo_id, rule.pattern, rule.deny) is None


def releases_in(views: list[JobView], most: int) -> list[Release]:
    """The newest releases that have jobs, at most ``most``."""
    return list({view.row.release.content_digest: view.row.release for view in views}.values())[:most]
