"""Which requests a canary answers: as many as its weight says, the same ones each time, and never fewer later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.endpoints.split import share_of

DIGEST = "a" * 64


@given(st.binary(max_size=200), st.text("abcdef0123456789", min_size=64, max_size=64))
def test_a_request_lies_at_one_place_between_0_and_100(request, digest):
    assert 0 <= share_of("eu", digest, request) < 100
    assert share_of("eu", digest, request) == share_of("eu", digest, request)


@pytest.mark.parametrize("weight", [5, 50])
def test_a_weight_is_a_share_of_the_requests(weight):
    shares = [share_of("eu", DIGEST, b"%d" % number) for number in range(10_000)]
    assert sum(share < weight for share in shares) / 100 == pytest.approx(weight, abs=1.5)


def test_another_artifact_is_tried_on_other_requests():
    first = {n for n in range(1000) if share_of("eu", DIGEST, b"%d" % n) < 5}
    second = {n for n in range(1000) if share_of("eu", "b" * 64, b"%d" % n) < 5}
    assert len(first & second) < len(first) / 2
