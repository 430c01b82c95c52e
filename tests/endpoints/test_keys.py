"""API keys: how they are read, found and refused; a key is never in a message."""

import pytest

from tasks.domain.errors import InputError
from tasks.endpoints.keys import Keys

ANNA, JON, OWN = "anna-0123456789abcdef", "jon-0123456789abcdef", "own-0123456789abcdef"


def test_keys_are_found_by_what_a_client_sends():
    keys = Keys.parse(f"anna:{ANNA}:2, jon:{JON}\n# nobody:else-0123456789abcdef", OWN)
    assert keys.names == ("anna", "jon", "empelt")
    assert keys.find(f"Bearer {ANNA}".encode()) == keys.find(f"bearer  {ANNA}".encode())
    found = keys.find(f"Bearer {ANNA}".encode())
    assert found is not None
    assert (found.name, found.max_in_flight) == ("anna", 2)
    assert ANNA.encode() not in found.hashed
    assert keys.find(f"Bearer {OWN}".encode()).name == "empelt"


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", ANNA.encode(), f"Basic {ANNA}".encode(), b"Bearer x"])
def test_anything_else_finds_nobody(header):
    assert Keys.parse(f"anna:{ANNA}", OWN).find(header) is None


def test_without_keys_nobody_is_asked_for_one():
    assert not Keys.parse("  # none yet\n").asked_for


def test_everything_that_is_wrong_is_said_at_once_without_a_key():
    text = f"Anna:{ANNA}\nshort:abc\nlimit:{JON}:many\nempelt:{OWN}\ntwice:{ANNA}\ntwice:{JON}\nagain:{JON}"
    with pytest.raises(InputError) as refused:
        Keys.parse(text, "")
    message = str(refused.value)
    for said in (
        "key 1: its name",
        "key 2 (short) has 3 characters; at least 16",
        "key 3 (limit): its limit",
        "key 4: its name",
        "the name twice is given 2 times",
        "two names have the same key",
        "EMPELT_GATEWAY_KEY has 0 characters",
    ):
        assert said in message
    assert not any(key in message for key in (ANNA, JON, OWN))
