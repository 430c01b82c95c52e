"""The page of a promotion: every step, the figures of both versions, the reason, the times that are quoted."""

from datetime import UTC, datetime
from typing import Any

from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ChannelState, ModelRef
from tasks.domain.promotion import Counted
from tasks.domain.promotion_page import promotion_page
from tasks.domain.records import PromotionStep

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD, NEW = ModelRef(repo_id="lab/v1", revision="1" * 40), ModelRef(repo_id="lab/v2", revision="2" * 40)
REQUEST = PublishRequest(
    **{"family": "tiny", "target": "eu", "channel": "eu", "artifact_digest": "b" * 64, "release": NEW},
    **{"expected_generation": 1, "reason": "stronger on <eu_mc>"},
)
FIGURES = {"canary": Counted(40, errors=2, seconds={9: 38}).as_json(), "live": Counted(760).as_json(), "weight": 5.0}


def step(name: str, ended: str = "done", said: str = "", **figures: Any) -> PromotionStep:
    what = {"channel": "eu", "generation": 1, "digest": "b" * 64, "step": name, "ended": ended, "said": said}
    return PromotionStep.model_validate({**what, "seconds": 1.25, "figures": figures, "at": AT})


def channel(digest: str, release: ModelRef, generation: int) -> ChannelState:
    names = {"channel": "eu", "target": "eu", "family": "tiny", "switched_at": AT, "release": release}
    return ChannelState.model_validate({**names, "generation": generation, "artifact_digest": digest})


def test_a_promotion_that_went_through_shows_its_steps_figures_and_times():
    confirmed = step("confirm", acknowledged_seconds=0.913, switch_seconds=0.012)
    steps = [step("stage"), step("canary 5", said="40 requests", **FIGURES), step("switch"), confirmed]
    page = promotion_page(REQUEST, steps, channel("b" * 64, NEW, 2))
    assert "serves it as generation 2, since" in page
    assert "| canary 5 | done | 1.25 | 40 requests |" in page
    assert "| canary 5 | canary | 40 | 2 |" in page
    assert "| canary 5 | live | 760 | 0 |" in page
    assert "acknowledgement: 0.913 s" in page
    assert "first use by the gateway: 0.012 s" in page
    assert "stronger on &lt;eu_mc>" in page


def test_a_refused_one_says_why_first_and_what_goes_on():
    steps = [step("canary 5", "refused", "5 % lost; too slow", **FIGURES), step("take back")]
    page = promotion_page(REQUEST, steps, channel("a" * 64, OLD, 1))
    assert "**refused at canary 5: the channel never moved**" in page
    assert page.index("- 5 % lost") < page.index("- too slow") < page.index("## Steps")
    assert "now: lab/v1@111111111111, generation 1" in page


def test_one_that_broke_off_says_so():
    assert "under way, or broken off" in promotion_page(REQUEST, [step("stage")], None)
    assert "now: nothing" in promotion_page(REQUEST, [], None)
