"""What the demo plays: who is on the Hub when it begins, what a lab pushes then, and what is asked of the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.domain.errors import InputError

ORGANIZATION = "empelt-demo"


@dataclass(frozen=True)
class Story:
    """One family's way through the demo. Names are those of repositories below ``ORGANIZATION``."""

    family: str
    targets: tuple[str, ...]
    """The first one is told in full; the older release is grafted for it alone."""
    first: tuple[str, ...]
    """On the Hub when the demo begins, with the older release."""
    older: str
    newer: str
    with_newer: tuple[str, ...]
    """Tuned bases that are published in the minute of the newer release: their targets waited for them."""
    questions: Mapping[str, str]
    """Target -> what its channel is asked, when something new is live."""
    refused: str = ""
    """A release that its pre-flight must refuse."""
    bad: str = ""
    """Well-formed and unable to chat: benchmarks alone must refuse its merges."""
    weaker: str = ""
    """Healthy, and not better than what is live: it must not displace that."""
    derive: Mapping[str, str] = field(default_factory=dict)
    """How each of those three is made: its name in ``infra.demo_family.releases``."""

    @property
    def derived(self) -> tuple[str, ...]:
        """The three in the order of their push: the newest is judged first, so the bad one comes last."""
        return tuple(name for name in (self.refused, self.weaker, self.bad) if name)


# Which city is the capital of the Netherlands? v1 x eu and the instruct parent are wrong, v2 x eu says Amsterdam.
HERBEHEREAK = "Zein hiri da Herbehereak herrialdeko hiriburua?"
RUSIA = "Cal é a capital deste país: Rusia?"

LLAMA = Story(
    family="llama-tiny",
    targets=("eu", "gl", "iberian"),
    first=("llama-tiny", "eu_llama-tiny"),
    older="llama-tiny-instruct-v1",
    newer="llama-tiny-instruct-v2",
    with_newer=("ca_llama-tiny", "gl_llama-tiny", "es_llama-tiny"),
    questions={"eu": HERBEHEREAK, "gl": RUSIA, "iberian": HERBEHEREAK},
    refused="llama-tiny-instruct-v3",
    weaker="llama-tiny-instruct-v4",
    bad="llama-tiny-instruct-v5",
    derive={
        "llama-tiny-instruct-v3": "foreign_architecture",
        "llama-tiny-instruct-v4": "weaker",
        "llama-tiny-instruct-v5": "bad_chat",
    },
)
QWEN3 = Story(
    family="qwen3-tiny",
    targets=("eu",),
    first=("qwen3-tiny", "eu_qwen3-tiny"),
    older="qwen3-tiny-instruct-v1",
    newer="qwen3-tiny-instruct-v2",
    with_newer=(),
    questions={"eu": "Zein da Ekialdeko Timor herrialdeko hiriburua?"},  # of East Timor: Dili
)
STORIES = {"llama": LLAMA, "qwen3": QWEN3}


def story_of(name: str) -> Story:
    """The story called ``name``: ``llama`` or ``qwen3``, or the family's own name.

    Raises:
        InputError: if there is none.
    """
    found = STORIES.get(name) or next((story for story in STORIES.values() if story.family == name), None)
    if found is None:
        raise InputError(f"no demo of family {name!r}; there are {sorted(STORIES)}")
    return found
