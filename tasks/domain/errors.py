"""Everything the pipeline can refuse or fail at, as one tree.

    PipelineError
      x InputError            what was asked cannot be done as asked; never retried
        + CatalogError        a catalog or gate file is wrong: file, key, line
        + ModelRefused        a model failed the pre-flight or its identity check
          + WrongModel        what answers is not the model that was judged
        + LogprobsMissing     a server gave no log-probabilities, so nobody can say which model answers
        + UnknownBenchmark    a gate names a benchmark that no suite defines
        + ServingMissing      the serving environment is not installed or cannot start
        + AddressInUse        a port or a socket is taken by somebody else
      x TransientError        may pass by itself; retried with back-off
        + HubUnavailable      the source did not answer, or answered 429 or 5xx
        + EndpointUnavailable an instance, the agent or the gateway did not answer in time
        + DiskFull            a wait with a reason: needed and free bytes are named
      x PromotionFailed       the switch was not made, or was taken back
        + PromotionRefused    the new version was worse on real requests, or not what was judged; it is not switched to

The engine has a tree of its own (``tasks.engine.errors``), since it imports nothing of ours. A failed gate is a value
(``Verdict``), not an exception; a missing score is "unscored", not 0.
"""

from collections.abc import Iterable


class PipelineError(Exception):
    """A refusal or failure of the pipeline. ``problems`` lists every one found, not only the first."""

    def __init__(self, message: str, *, problems: Iterable[str] = ()) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{message}{listed}")


class InputError(PipelineError):
    """What was asked for cannot be done as asked. Trying again changes nothing."""


class CatalogError(InputError):
    """A file of the catalog is wrong. The message names file, key and line."""


class ModelRefused(InputError):
    """A model was refused before or after its download: architecture, shapes, format, identity."""


class WrongModel(ModelRefused):
    """What answers is not the model that was judged: other outputs, another digest, other files."""


class LogprobsMissing(InputError):
    """A server answered without what its answers are compared by. It is never taken for a pass."""


class UnknownBenchmark(InputError):
    """A gate names a benchmark that no suite defines."""


class ServingMissing(InputError):
    """The serving environment is not there, or cannot be started."""


class AddressInUse(InputError):
    """A port or socket that we need is held by another process."""


class TransientError(PipelineError):
    """May pass by itself; the only branch that is retried."""


class HubUnavailable(TransientError):
    """A source of models did not answer, or asked us to come back later."""


class EndpointUnavailable(TransientError):
    """The agent, the gateway or an instance did not answer before the deadline."""


class DiskFull(TransientError):
    """Not enough room. A wait with a reason, since somebody can make room."""

    def __init__(self, message: str, *, needed_bytes: int = 0, problems: Iterable[str] = ()) -> None:
        super().__init__(message, problems=problems)
        self.needed_bytes = needed_bytes
        """What there must be room for; 0 where it is not known."""


class PromotionFailed(PipelineError):
    """A channel was not switched, or was switched back. The live model is the one from before."""


class PromotionRefused(PromotionFailed):
    """A version was tried and taken back: ``problems`` says by which limits. The channel never moved."""
