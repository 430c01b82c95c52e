"""A promotion as a flow holds it, and what is on record of it. Its Prefect tasks are in ``promote`` and ``publish``."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.domain.errors import CatalogError, ModelRefused, PromotionRefused
from tasks.domain.jobs import Promoted, PublishRequest
from tasks.domain.overview import page_key
from tasks.domain.promotion import CanaryStep, PromotionPolicy
from tasks.domain.promotion_page import promotion_page
from tasks.domain.records import JobOutcome
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.endpoints.promotion import Promoter, stands
from tasks.endpoints.protocol import Ready
from tasks.references import model_of
from tasks.runs import own_name, warn_of
from tasks.settings import settings


class Way:
    """A promotion on its way. Held by its flow; the tasks move it on."""

    def __init__(self, request: PublishRequest, policy: PromotionPolicy, *, back: bool) -> None:
        self.request, self.policy, self.back = request, policy, back
        self.standing = stands(open_ledger(), request)
        run_id = flow_run.get_id()
        self.promoter = Promoter(
            open_ledger(),
            request,
            gateway=settings().gateway_url,
            key=settings().own_key,
            owner=own_name(),
            lease_seconds=float(settings().lease_seconds),
            run_id=str(run_id) if run_id else None,
        )
        self.up = ExitStack()
        self.ready: Ready | None = None
        self.refused = ""

    @property
    def steps(self) -> list[CanaryStep]:
        """The parts of the requests that it is still to be tried on; none on the way back, which is in a hurry."""
        return [] if self.back or self.ready is None else self.standing.left(self.policy)

    def ended(self) -> State[Promoted]:
        """The state that the flow ends in."""
        now = open_ledger().channel(self.request.channel)
        generation = now.generation if now else 0
        told = Promoted(
            channel=self.request.channel, generation=generation, release=self.request.release, refused=self.refused
        )
        name = "Refused" if self.refused else "RolledBack" if self.back else "Published"
        serves = f"{told.channel} serves {told.release} as generation {generation}"
        return Completed(name=name, message=self.refused or serves, data=told)


@contextmanager
def promotion(request: PublishRequest, *, back: bool = False) -> Iterator[Way]:
    """Carry a promotion out inside the block; a refused one ends it, and is told by ``Way.ended``.

    Whatever ends the block early takes the canary back. What was staged for it goes, unless it is live by then.

    Raises:
        PromotionFailed: the channel has moved on since it was asked for.
    """
    way = Way(request, policy_of(request), back=back)
    try:
        with way.up:
            yield way
    except PromotionRefused as refusal:
        way.refused = str(refusal)
    except BaseException:
        open_ledger().end_canary(request.channel, request.artifact_digest, owner=own_name())
        raise
    warn_of(show(request, return_state=True), f"page of the promotion on {request.channel}")


def policy_of(request: PublishRequest) -> PromotionPolicy:
    """As the target states it; the default for one that has left the catalog and is only taken back."""
    try:
        return open_catalog().target(request.family, request.target).promotion
    except CatalogError:
        return PromotionPolicy()


def as_served(request: PublishRequest) -> Mapping[str, Any] | None:
    """How the artifact was served when its channel was switched to it last; None if it never was."""
    switches = open_ledger().promotions(request.channel)
    return next((dict(one.extra) for one in switches if one.artifact_digest == request.artifact_digest), None)


def require_stored(request: PublishRequest) -> None:
    """Refuse what the store has not got; what it has is from now on in use, and no collection of garbage takes it.

    Raises:
        ModelRefused: naming what is there instead.
    """
    under = model_of(request.artifact_digest)
    if open_store().use(request.artifact_digest) and under is not None and not open_store().use(under):
        raise ModelRefused(
            f"{request.channel!r} cannot serve {request.release}: its artifact {request.artifact_digest} is an "
            f"adapter, and the model that it is served over, {under}, is not in the store any more; run its job again"
        )
    if open_store().use(request.artifact_digest):
        return
    there = [
        f"{p.artifact_digest[:12]} ({p.release}, generation {p.generation})"
        for p in open_ledger().promotions(request.channel)
        if open_store().has(p.artifact_digest)
    ]
    raise ModelRefused(
        f"{request.channel!r} cannot serve {request.release}: its artifact {request.artifact_digest} is not in the "
        "store any more. Run its job again from the form of remerge-release, or go back to one that is there",
        problems=there or ["none of those that it has served is"],
    )


@task(name="show-promotion", task_run_name="show {request.channel}", cache_policy=NO_CACHE)
def show(request: PublishRequest) -> None:
    """The page of the channel's last promotion, refused or not."""
    ledger = open_ledger()
    steps = ledger.promotion_steps(request.channel, digest=request.artifact_digest)
    mine = [step for step in steps if step.generation == request.expected_generation]
    page = promotion_page(request, mine, ledger.channel(request.channel))
    create_markdown_artifact(page, key=page_key("serving", request.channel), description=f"{request.release}")


def outcome_of(told: Promoted | State[Promoted]) -> Promoted:
    """What a promotion's flow returned: Prefect gives a state's data or the state, by how the flow was called."""
    return told.result() if isinstance(told, State) else told


def published(told: Promoted | State[Promoted], reasons: str) -> tuple[str, JobOutcome, int, str]:
    """How a job ends by its promotion: name of the run's state, the ledger's word, the generation, and why."""
    done = outcome_of(told)
    if done.refused:  # a person looks at it: the same requests would refuse it again
        return "Refused", "held", done.generation, done.refused
    return "Published", "published", done.generation, reasons
