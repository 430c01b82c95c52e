"""What can happen at a simulated Hub, and the families that are watched there. Nothing here imports the product."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tests.year.contents import Content

Kind = Literal["create", "commit", "open", "rename", "delete", "disable", "gate", "grant", "trust"]
LANGUAGES = ("eu", "ca", "gl", "es", "pt", "fr", "it", "oc", "an", "ast", "cy", "ga")
DENIED = ("GGUF", "AWQ", "GPTQ", "FP8", "INT4", "MLX", "bnb", "Preview", "Guard", "VL", "Coder", "Math", "Reward")


@dataclass(frozen=True)
class Event:
    """One thing that happens to the repository ``key``, whose internal id that is."""

    at: datetime
    kind: Kind
    key: str
    name: str = ""
    """Of a repository that is created or renamed."""
    content: Content | None = None
    private: bool = False
    gated: bool = False


@dataclass(frozen=True)
class FamilyPlan:
    """A family of the simulated catalog."""

    name: str
    label: str
    """As its repositories are called: ``Fam03-8B``."""
    organisations: tuple[str, ...]

    @property
    def base(self) -> str:
        return f"{self.organisations[0]}/{self.label}"

    def tuned(self, language: str) -> str:
        """Repository of its base continued on one language."""
        return f"tuners/{language}_{self.label}"


@dataclass
class History:
    """A year of events, and the names that a family's rule knows."""

    families: list[FamilyPlan]
    events: list[Event] = field(default_factory=list)
    rule_names: dict[str, str] = field(default_factory=dict)
    """Repository name -> family, of every name that is one of an instruct release."""


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)
