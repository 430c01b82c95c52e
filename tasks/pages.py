"""What the pages of the UI tell, read from the ledger alone."""

from functools import partial
from typing import TYPE_CHECKING

from tasks.admission import ruled
from tasks.domain.catalog import Family
from tasks.domain.due import PlanRow
from tasks.domain.models import ChannelState, Release
from tasks.domain.overview import JobView
from tasks.domain.publication import Publication
from tasks.domain.records import Hold, JobFact
from tasks.domain.verdict import Verdict
from tasks.doors import open_ledger
from tasks.sources.detection import name_problem
from tasks.standing import rows_of

if TYPE_CHECKING:
    from tasks.store.views import Told


def views_of(family: Family, runs: dict[str, str]) -> list[JobView]:
    """Every job of a family that is on record, newest release first.

    Args:
        family: of the catalog.
        runs: job_key -> id of its newest flow run, where Prefect knows one.
    """
    ledger = open_ledger()
    facts = {(f.job.target, f.job.release.content_digest): f for f in ledger.jobs(family.family)}
    known, seen = ledger.releases(family.family), ledger.glance(family.family)
    told, live = ledger.told(family.family, list(facts.values())), {c.channel: c for c in ledger.channels()}
    published: dict[str, list[Publication]] = {}
    for publication in ledger.publications():
        published.setdefault(publication.digest, []).append(publication)
    planned = {release.content_digest for release in ruled(family, known)}
    found: list[JobView] = []
    for name, target in family.targets.items():
        here = {digest: fact for (of, digest), fact in facts.items() if of == name}
        releases = [release for release in known if release.content_digest in here]
        keys = {digest: fact.job_key for digest, fact in here.items()}
        rows = partial(rows_of, family.family, name, target.channel, keys=keys, seen=seen)
        all_rows = rows([release for release in releases if release.content_digest in planned])
        others = [release for release in releases if release.content_digest not in planned]
        all_rows += [_by_hand(row) for release in others for row in rows([release])]
        for row in all_rows:
            fact = here[row.release.content_digest]
            view = _view(fact, row, told[fact.job_key], live.get(row.channel), target.languages, runs)
            made = told[fact.job_key].switch
            stands = published.get(made.artifact_digest, []) if made else []
            found.append(view._replace(published=tuple(stands)))
    order = list(family.targets)
    return sorted(found, key=lambda v: (-v.row.release.released_at.timestamp(), order.index(v.row.target)))


def _by_hand(row: PlanRow) -> PlanRow:
    """A row of a release that the family's rule does not know: no watch takes it up."""
    if row.standing not in ("due", "older"):
        return row
    return row.model_copy(update={"standing": "held", "reason": "outside the family's rule: only run by hand"})


def _view(
    fact: JobFact,
    row: PlanRow,
    told: "Told",
    state: ChannelState | None,
    languages: tuple[str, ...],
    runs: dict[str, str],
) -> JobView:
    end, verdict, made, times = told
    # A rollback serves the same artifact again as a generation of its own: it is the artifact that counts.
    serves = made is not None and state is not None and state.artifact_digest == made.artifact_digest
    return JobView(
        row=row,
        outcome=end.outcome if end else "",
        verdict=Verdict.model_validate(dict(verdict.payload)) if verdict else None,
        generation=state.generation if serves and state else made.generation if made else None,
        serves=serves,
        run=runs.get(fact.job_key) or (end.flow_run_id if end else None),
        times=times,
        languages=languages,
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
