"""API keys: several, each with a name and perhaps a limit of its own. They are kept as hashes and never logged."""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tasks.domain.errors import InputError

OWN = "empelt"
"""The name of the installation's own key, with which its agent and its evaluation ask."""
LEAST_LENGTH = 16
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Key(NamedTuple):
    """One key."""

    name: str
    hashed: bytes
    max_in_flight: int
    """0: no limit but the gateway's own."""


class Keys:
    """All of them. With none, everybody is let in: then the gateway belongs on loopback."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def parse(cls, text: str, own: str = "") -> "Keys":
        """Read ``name:key`` or ``name:key:max_in_flight``, separated by commas or lines; ``#`` begins a comment.

        Args:
            text: all keys of people.
            own: the installation's own key; needed as soon as there is one of people's.

        Raises:
            InputError: listing everything that is wrong, by line and name; never a key.
        """
        found: list[Key] = []
        problems: list[str] = []
        entries = [part.strip() for line in text.splitlines() for part in line.split("#")[0].split(",")]
        for number, entry in enumerate(filter(None, entries), start=1):
            name, _, rest = entry.partition(":")
            secret, _, limit = rest.partition(":")
            where = f"key {number}"
            if NAME.fullmatch(name) is None or name == OWN:
                problems.append(f"{where}: its name should be lower-case letters and digits, and not {OWN!r}")
            elif len(secret) < LEAST_LENGTH:
                problems.append(f"{where} ({name}) has {len(secret)} characters; at least {LEAST_LENGTH} are expected")
            elif limit and not limit.isdigit():
                problems.append(f"{where} ({name}): its limit of requests under way is not a number")
            else:
                found.append(Key(name, _hashed(secret), int(limit or 0)))
        times = Counter(key.name for key in found)
        problems += [f"the name {name} is given {count} times" for name, count in times.items() if count > 1]
        if len({key.hashed for key in found}) < len(found):
            problems.append("two names have the same key")
        if found and len(own) < LEAST_LENGTH:
            problems.append(
                f"EMPELT_GATEWAY_KEY has {len(own)} characters, at least {LEAST_LENGTH} are expected: without a key of "
                "its own this installation's agent and evaluation would be refused"
            )
        if problems:
            raise InputError(f"EMPELT_GATEWAY_KEYS cannot be used: {'; '.join(problems)}")
        return cls([*found, Key(OWN, _hashed(own), 0)] if found else [])

    @property
    def names(self) -> tuple[str, ...]:
        """Of all keys."""
        return tuple(key.name for key in self._keys)

    @property
    def asked_for(self) -> bool:
        """Whether a request needs one."""
        return bool(self._keys)

    def find(self, authorization: bytes) -> Key | None:
        """Whose key a header ``Bearer ...`` holds. Takes as long for any key, known or not: all are compared."""
        scheme, _, secret = authorization.partition(b" ")
        shown = hashlib.sha256(secret.strip()).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.hashed, shown):
                found = key
        return found if scheme.lower() == b"bearer" else None


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
