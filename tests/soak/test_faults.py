"""Everything that vLLM really does wrong, at every step of a promotion, under load.

One installation lives through all of them: gateway, launcher and agent as processes, instances that stand for vLLM. Of
each case: the channel answers with what the routes allow and with nothing else, at most one switch is visible for each
that the ledger has made, nothing is lost before the new version takes part, and no engine is left behind.
"""

import time

import pytest

from tasks.domain.errors import PipelineError
from tests.local_hub.hub_fixtures import free_port
from tests.soak.faulty import FAULTS, strike
from tests.soak.promotion import STEPS, Promotion
from tests.soak.records import Event
from tests.soak.site import open_site

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site():
    with open_site(free_port()) as opened:
        yield opened


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_a_step(site, fault, step):
    artifact = site.shelf.make()
    promotion = Promotion(site.host, artifact, site.shelf.refs[artifact.digest], deadline=8.0)
    before, began, refused = site.host.ledger.channel("eu"), time.monotonic(), ""

    def strike_at(name):
        if name == step:
            strike(site, artifact.digest, FAULTS[fault])

    try:
        promotion.run(strike_at)
    except PipelineError as error:
        refused = str(error)
    struck = time.monotonic()
    site.host.misbehave(artifact.digest)
    site.settle()
    after = site.host.ledger.channel("eu")
    switched = after.generation - before.generation
    event = Event(f"{fault} at {step}", began, struck, time.monotonic(), switches=None, killed=artifact.digest)
    found = {one.rule: one.problems for one in site.judged(event)}
    assert not found["attributable"], found
    assert not found["right model"], found
    assert not found["processes"], found
    assert refused or after.artifact_digest == artifact.digest
    if not promotion.switched_at:
        assert switched == 0
        assert not found["nothing lost"], found
