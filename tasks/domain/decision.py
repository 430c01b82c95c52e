"""A decision as people ask about it: what serves now, what served before, and why, in one sentence first."""

from collections.abc import Mapping
from typing import NamedTuple

from tasks.domain.evidence import Change
from tasks.domain.jobs import Job
from tasks.domain.models import Digest, ModelRef
from tasks.domain.records import MergeCost
from tasks.domain.verdict import Row, Verdict
from tasks.domain.words import duration, size


class Served(NamedTuple):
    """What a channel serves, or served."""

    release: ModelRef
    digest: Digest
    generation: int


class Decision(NamedTuple):
    """Everything that a decision's pages say. It holds no moment, so the same decision gives the same page."""

    job: Job
    verdict: Verdict
    ended: str
    """How the run ended, in a word."""
    digest: Digest
    """Of the merged artifact."""
    generation: int | None
    """Of the channel, if the candidate was published."""
    serving: Mapping[str, str]
    """Image, flags and device class that it was measured on."""
    live: Served | None
    """What the channel served when the candidate was judged."""
    changes: tuple[Change, ...] = ()
    """Against the live model."""
    prefix: str = ""
    """Of commands that should mean this installation (``EMPELT_HOME=... ``)."""
    cost: MergeCost | None = None
    """What the merge took, if it was made here."""

    @property
    def sentence(self) -> str:
        """The verdict and what became of it."""
        return f"{_judged(self.verdict)}: {self._consequence}."

    @property
    def take_back(self) -> str | None:
        """The command that undoes it; None where nothing was changed."""
        return None if self.generation is None else f"{self.prefix}empelt rollback {self.job.channel}"

    @property
    def took(self) -> str | None:
        """``12 s, peak 310 MB``: what the merge took; None where that is not on record."""
        if self.cost is None:
            return None
        return f"{duration(self.cost.seconds)}, peak {size(self.cost.peak_bytes, none='not measured')}"

    @property
    def beside(self) -> str:
        """Heading of the comparison with the live model."""
        return "Against what is live" if self.generation is None else "Against what was live"

    @property
    def comparison(self) -> list[tuple[str, str, str]]:
        """What stands beside what: a heading and two cells a line, the first line being the columns' names."""
        published, live, channel = self.generation is not None, self.live, self.job.channel
        heads = ("served before", "serves now") if published else ("serves, unchanged", "candidate, not published")
        return [
            ("", *heads),
            ("release", live.release.slug if live else "nothing", self.job.release.ref.slug),
            ("revision", live.release.revision[:12] if live else "–", self.job.release.ref.revision[:12]),
            ("generation", str(live.generation) if live else "–", str(self.generation) if published else "–"),
            ("model", f"{channel}@{live.digest[:12]}" if live else "–", f"{channel}@{self.digest[:12]}"),
        ]

    @property
    def _consequence(self) -> str:
        channel = f"channel {self.job.channel}"
        if self.generation is not None:
            return f"{channel} serves it as generation {self.generation}"
        if self.verdict.passed and self.verdict.stronger_than_live is not False:
            return f"{channel} is moved only by a person"
        if self.live is None:
            return f"{channel} still serves nothing"
        return f"{channel} goes on with {self.live.release.slug}, generation {self.live.generation}"


def mark(row: Row) -> str:
    """A check's end in a word."""
    if not row.gated:
        return "not gated"
    return {True: "pass", False: "FAIL", None: "undecided"}[row.ok]


def _judged(verdict: Verdict) -> str:
    if wrong := [one.name for one in verdict.examined if one.ok is False]:
        return f"Examined before its benchmarks, it failed in {', '.join(wrong)}"
    total = sum(row.gated for row in verdict.rows)
    failed = [row.benchmark for row in verdict.rows if row.ok is False]
    unclear = [row.benchmark for row in verdict.rows if row.ok is None]
    if failed:
        return f"{len(failed)} of {total} checks failed ({', '.join(failed)})"
    if untold := [one.name for one in verdict.examined if one.ok is None]:
        return f"Examined before its benchmarks, it could not be told in {', '.join(untold)}"
    if unclear:
        return f"No check failed, but {len(unclear)} of {total} could not be decided ({', '.join(unclear)})"
    if not verdict.passed:
        return "No check could be gated, so nothing was shown"
    compared = {
        None: "and nothing was live before",
        True: "and the candidate is stronger than what was live",
        False: "but the candidate is not stronger than what is live",
    }
    told = f"All {total} checks" if total > 1 else "The only check"
    return f"{told} passed, {compared[verdict.stronger_than_live]}"
