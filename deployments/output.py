"""What the `empelt` command says: a report on stdout, for people or as one JSON object; all else on stderr."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

out, err = Console(), Console(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]


def show(value: dict[str, Any], as_json: bool, text: str) -> None:
    """Print ``value`` as JSON, or ``text`` for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)
