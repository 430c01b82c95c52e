"""Who gives way when there is no room, and when."""

import pytest

from tasks.endpoints.cluster.room import FORGOTTEN_SECONDS, Room, gives_way
from tasks.endpoints.wishes import Keep, Wish


def wish(channel: str, digit: str, keep: Keep) -> Wish:
    return Wish(f"{channel}-{digit}", channel, digit * 64, "", keep, {})


LIVE, OTHER = wish("eu", "2", "live"), wish("ca", "1", "live")
ROUTED, STAGED, WARM = wish("eu", "1", "routed"), wish("ca", "3", "staged"), wish("gl", "1", "previous")


def goes(wishes: list[Wish], homeless: Wish, **more: object) -> str:
    told = {
        "standing": {one.name for one in wishes if one is not homeless},
        "answering": {"eu": "eu-1", "ca": "ca-1"},
        "pending": {"eu"},
    }
    return gives_way(wishes, homeless={homeless.name}, **{**told, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wishes", "homeless", "expected"),
    [
        ([LIVE, OTHER, ROUTED, STAGED, WARM], LIVE, "gl-1"),
        ([LIVE, OTHER, ROUTED, STAGED], LIVE, "ca-3"),
        ([LIVE, OTHER, ROUTED], LIVE, "eu-1"),
        ([LIVE, OTHER], LIVE, ""),
        ([OTHER, ROUTED, STAGED], STAGED, ""),
        ([OTHER, ROUTED, STAGED, WARM], STAGED, "gl-1"),
    ],
    ids=["warm first", "then a candidate", "then its own old one", "never another channel's", "candidate", "for it"],
)
def test_the_least_important_one_goes_first(wishes: list[Wish], homeless: Wish, expected: str) -> None:
    assert goes(wishes, homeless) == expected


def test_what_answers_goes_only_for_a_switch_that_is_not_visible_yet() -> None:
    assert goes([LIVE, ROUTED], LIVE) == "eu-1"
    assert goes([LIVE, ROUTED], LIVE, pending=set()) == ""
    assert goes([LIVE, ROUTED], LIVE, standing=set()) == ""


def test_a_node_is_waited_for_and_a_name_is_remembered_for_a_while() -> None:
    now = [0.0]
    room = Room(300, clock=lambda: now[0])
    room.note({"eu-2"}, set())
    assert room.too_long() == set()
    now[0] = 300
    room.note({"eu-2"}, set())
    assert room.too_long() == {"eu-2"}
    now[0] = 400  # taken back as a candidate, and live soon after: it need not wait anew
    room.note(set(), set())
    now[0] = 450
    room.note({"eu-2"}, set())
    assert room.too_long() == {"eu-2"}
    room.note(set(), {"eu-2"})
    assert room.too_long() == set()
    room.note({"eu-2"}, set())
    now[0] += FORGOTTEN_SECONDS + 1
    room.note(set(), set())
    assert room.too_long() == set()
