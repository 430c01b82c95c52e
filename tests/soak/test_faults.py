"""Everything that vLLM really does wrong, at every step of a promotion, under load.

One installation lives through all of them: gateway, launcher and agent as processes, instances that stand for vLLM. Of
each case: the channel answers with what the routes allow and with nothing else, at most one switch is visible for each
that the ledger has made, nothing is lost before the new version takes part, and no engine is left behind.
"""

import time

import pytest

from tasks.domain.errors import PipelineError
from tests.local_hub.hub_fixtures import free_port
from tests.soak.faulty import FAULTS, SHORT, strike
from tests.soak.promotion import STEPS, Promotion
from tests.soak.records import Event
from tests.soak.site import open_site

UNPROVEN = {"abort-200", "wrong weights", "missing logprobs"}
"""Whoever shows one of these when it is verified is refused."""
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def site():
    with open_site(free_port()) as opened:
        yield opened


def problems_of(site, artifact, promotion, event):
    """Everything that must not be, whatever the fault and the step."""
    found = site.judged(event)
    rules = ("attributable", "right model", "processes", "load")
    yield from (f"{one.rule}: {problem}" for one in found if one.rule in rules for problem in one.problems)
    for one in site.records:
        if one.ended < event.began or one.end == "whole":
            continue
        told = f"{one.end} {one.status} {one.error} of {one.artifact[:12]}, stream {one.is_stream}"
        if one.end == "error event" and one.artifact != artifact.digest:
            yield f"a stream of another version broke: {told}"
        elif one.end == "refused" and not 0 < promotion.switched_at < one.ended:
            yield f"refused before the switch: {told}"
        elif one.end not in ("error event", "refused"):
            yield f"lost without a word: {told}"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_a_step(site, fault, step):
    artifact = site.shelf.make()
    loads_wrongly = (fault, step) == ("wrong weights", "load")
    if loads_wrongly:  # else it would be judged as it is: what it says when it is first seen is what goes on record
        site.judge(artifact)
    promotion = Promotion(site.host, artifact, site.shelf.refs[artifact.digest], deadline=8.0, canary=SHORT)
    before, began, refused, struck = site.host.ledger.channel("eu"), time.monotonic(), "", 0.0

    def strike_at(name):
        nonlocal struck
        if name == step:
            strike(site, artifact.digest, FAULTS[fault])
            struck = time.monotonic()

    try:
        promotion.run(strike_at)
    except PipelineError as error:
        refused = str(error)
    site.host.misbehave(artifact.digest)
    site.settle()
    after = site.host.ledger.channel("eu")
    event = Event(f"{fault} at {step}", began, struck, time.monotonic(), switches=None, killed=artifact.digest)
    found = list(problems_of(site, artifact, promotion, event))
    if fault == "wrong weights" and STEPS.index(step) > STEPS.index("verify"):
        assert refused or step == "drain", "the start after it had been verified was not asked again"
    assert not found, (refused, found)
    served = after.artifact_digest
    assert served == (before.artifact_digest if refused else artifact.digest), refused
    assert after.generation - before.generation == (2 if promotion.switched_at and refused else not refused)
    unproven = loads_wrongly or (step == "verify" and fault in UNPROVEN)
    assert bool(refused) >= unproven, "it was promoted, and could not be proved"
