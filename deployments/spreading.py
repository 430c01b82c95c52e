"""Options that take several values at once: ``--candidates A B`` means ``--candidates A --candidates B``.

Typer gives an option a fixed number of values. Here all words up to the next option are its own, so arguments go before
it.
"""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperOption


class SpreadCommand(TyperCommand):
    """A command whose repeatable options may be followed by all their values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the option out before each of its values, and go on as usual."""
        several = {
            name
            for parameter in self.params
            if isinstance(parameter, TyperOption) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, spread(args, several))


def spread(args: Sequence[str], options: set[str]) -> list[str]:
    """``args`` with each value of ``options`` behind the option's name; the rest as it was."""
    found: list[str] = []
    current = ""
    for k, word in enumerate(args):
        if word == "--":
            return [*found, *args[k:]]
        name, _, value = word.partition("=")
        if name in options:
            current = name
            if value:
                found += [name, value]
            elif k + 1 == len(args) or args[k + 1].startswith("-"):
                found.append(name)  # nothing follows: the parser says so
        elif word.startswith("-"):
            current = ""
            found.append(word)
        else:
            found += [current, word] if current else [word]
    return found
