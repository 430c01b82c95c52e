"""What the engine refuses, and how it says so.

::

    MergeError
      x RecipeError             a recipe or merge file that cannot be understood
      x CheckpointError         inputs that cannot be read, or do not belong together
        + MissingTensor         a tensor that one input has and another lacks
        + ShapeMismatch
        + DtypeMismatch         a storage type that cannot be merged (integers, FP8)
        + VocabularyMismatch    the same token id means another token
        + CorruptShard          a header, an index or a file size that contradicts the rest
        + ConfigMismatch        configurations under which the same weights mean something else
        + ForeignParent         weights that do not come from the checkpoint that a delta is taken against
          - UndecidedParent   weights that cannot tell: a warning of a merge, no refusal
      x WriteError              the output folder could not be made
        + DiskFull

A message names what was refused with both values, what was expected, and what to do. Everything wrong is told at once:
an error about several things carries each of them in ``problems``, and their common class is the class raised.
"""

from collections.abc import Sequence

_LISTED = 20
"""Problems of one kind that a message spells out; ``problems`` keeps all. A foreign architecture gives about 600."""


class MergeError(Exception):
    """Whatever stops a merge. Nothing has been left behind when it is raised."""

    def __init__(self, message: str, problems: Sequence["MergeError"] = ()) -> None:
        """Take the text shown to people, and the single problems when there are several."""
        super().__init__(message)
        self.problems: tuple[MergeError, ...] = tuple(problems) or (self,)

    @property
    def kind(self) -> str:
        """The class name: what ``--json-lines`` reports and a caller may switch on."""
        return type(self).__name__


class RecipeError(MergeError):
    """A recipe, or the file around it, has an unknown key, a value out of range, or leaves a language out."""


class CheckpointError(MergeError):
    """A checkpoint folder cannot be read, or the checkpoints of one merge do not fit together."""


class MissingTensor(CheckpointError):
    """One input has a tensor that another lacks: a merge without it would invent or drop a weight."""


class ShapeMismatch(CheckpointError):
    """A tensor has different shapes in two inputs."""


class DtypeMismatch(CheckpointError):
    """A tensor is stored in a type whose values cannot be added (integers, booleans, FP8)."""


class VocabularyMismatch(CheckpointError):
    """Two tokenizers give one id to different tokens, so equal rows would mean different words."""


class CorruptShard(CheckpointError):
    """A safetensors file or its index contradicts itself, or is shorter than its header says."""


class ConfigMismatch(CheckpointError):
    """Two ``config.json`` disagree on something that changes what the weights compute."""


class ForeignParent(CheckpointError):
    """A model lies nearer to another checkpoint than to its stated parent, or near none: its delta would be wrong."""


class UndecidedParent(ForeignParent):
    """The weights cannot tell a stated parent from another candidate. A merge goes on, and warns of it."""


class WriteError(MergeError):
    """The output could not be written, or already exists."""


class DiskFull(WriteError):
    """The file system has too little room, before or during the writing."""


def refuse_all(problems: Sequence[MergeError]) -> None:
    """Raise one error that tells every problem; return when there is none.

    The class is the deepest one that all problems share, so two shapes are a `ShapeMismatch`, while a shape and a
    missing tensor are a `CheckpointError` whose text names both kinds.

    Args:
        problems: What was found, in the order in which it should be read.

    Raises:
        MergeError: The one problem itself, or an error of the common class with ``problems`` set.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    shared = next(cls for cls in type(problems[0]).__mro__ if all(isinstance(problem, cls) for problem in problems))
    kinds: dict[str, list[MergeError]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = [f"{len(problems)} problems:"]
    for kind, members in kinds.items():
        lines += [f"  {kind}: {problem}" for problem in members[:_LISTED]]
        if len(members) > _LISTED:
            lines.append(f"  {kind}: and {len(members) - _LISTED} more of this kind")
    raise shared("\n".join(lines), problems)
