"""Random orders of promotions, faults, roll-backs, kills and restarts, under load: whatever comes, no wrong answer.

Of each order: every answer is by a version that was routed, the channel ends with what the ledger says, each generation
becomes visible once (and comes back only after a kill), and no engine is left without its server.
"""

import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tasks.domain.errors import PipelineError
from tests.local_hub.hub_fixtures import free_port
from tests.soak.faulty import FAULTS, SHORT, WRONG, strike
from tests.soak.promotion import STEPS, Promotion
from tests.soak.records import Event
from tests.soak.site import open_site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
BESIDES = ("nothing", "agent", "gateway", "live")
PROMOTE = st.fixed_dictionaries(
    {
        "fault": st.sampled_from(["", *FAULTS]),
        "at": st.sampled_from(STEPS),
        "besides": st.sampled_from(BESIDES),
        "then": st.sampled_from(STEPS),
    }
)
ACT = st.one_of(PROMOTE, st.sampled_from(["roll back", *BESIDES[1:]]))


@pytest.fixture(scope="module")
def site():
    with open_site(free_port()) as opened:
        yield opened


def live(site):
    return site.host.ledger.channel("eu")


def beside(site, what):
    """Something happens to another process."""
    if what == "agent":
        site.host.kill_agent()
    elif what == "gateway":
        site.host.restart_gateway()
    elif what == "live":
        site.host.kill_instance(live(site).artifact_digest, seconds=30)


def promote(site, act):
    """A new artifact, with a fault at one step and something else at another; whether an instance was killed."""
    artifact, killed = site.shelf.make(), act["besides"] == "live"

    def before(name):
        nonlocal killed
        if act["fault"] and name == act["at"]:
            killed = strike(site, artifact.digest, FAULTS[act["fault"]]) or killed
        if name == act["then"]:
            beside(site, act["besides"])

    try:
        Promotion(site.host, artifact, site.shelf.refs[artifact.digest], deadline=10.0, canary=SHORT).run(before)
    except (PipelineError, TimeoutError):
        pass  # refused, or not in time: that nothing wrong is answered is what is looked at
    site.host.misbehave(artifact.digest)
    return killed


def roll_back(site):
    now, before = live(site), site.host.ledger.served_before("eu")
    if before:
        state = site.host.switch(before[0].artifact_digest, before[0].release, now.generation)
        site.host.confirm(state.generation, 60)


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # an order takes seconds, and the next one begins where it has ended
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(acts=st.lists(ACT, min_size=2, max_size=4))
def test_any_order(site, acts):
    began, generation, killed = time.monotonic(), live(site).generation, False
    for act in acts:
        if isinstance(act, dict):
            killed = promote(site, act) or killed
        elif act == "roll back":
            roll_back(site)
        else:
            killed = act == "live" or killed
            beside(site, act)
        site.settle()
    made = live(site).generation - generation
    event = Event(str(acts), began, began, time.monotonic(), switches=None if killed else made)
    rules = ("attributable", "right model", "switches", "processes", "load")
    found = [f"{one.rule}: {problem}" for one in site.judged(event) if one.rule in rules for problem in one.problems]
    # What has loaded other weights before it was first seen is judged as it is: nothing is on record of it yet.
    assert not [one for one in found if f"the text was written by {WRONG}" not in one]
