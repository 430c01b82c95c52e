"""Rendering a chat template that nobody here wrote: in a child process, in Jinja's sandbox, with limits.

``python -m tasks.harness.rendering`` reads ``{"template", "messages", "variables"}`` on stdin and writes ``{"text"}``
or ``{"error"}``. The sandbox keeps a template from the interpreter; the child's limits keep it from the machine: a loop
of a million loops, or a text of a gigabyte, ends the child and nothing else.
"""

import datetime
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.domain.errors import ModelRefused

CPU_SECONDS = 2
MEMORY_BYTES = 512 << 20
TEXT_BYTES = 1 << 20
_ROOT = Path(__file__).parents[2]

Message = Mapping[str, str]


def render(
    template: str, messages: Sequence[Message], variables: Mapping[str, Any] | None = None, *, whose: str = "the model"
) -> str:
    """What the server will send to the model for ``messages``, with the prompt for an answer at the end.

    Args:
        template: Jinja, as models ship it.
        messages: each with ``role`` and ``content``.
        variables: such as ``bos_token``.
        whose: for messages of errors.

    Raises:
        ModelRefused: if the template cannot be rendered, asks for what the sandbox forbids, or passes a limit.
    """
    asked = json.dumps({"template": template, "messages": list(messages), "variables": dict(variables or {})})
    command = [sys.executable, "-m", "tasks.harness.rendering"]
    # Nothing of our environment: a template has no business with keys.
    environment = {"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    limit = f"within {CPU_SECONDS} s, {MEMORY_BYTES >> 20} MiB and {TEXT_BYTES >> 20} MiB of text"
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, env=environment, timeout=60 * CPU_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelRefused(f"the chat template of {whose} did not end {limit}") from error
    if done.returncode != 0:
        raise ModelRefused(f"the chat template of {whose} was not rendered {limit} (exit code {done.returncode})")
    told = json.loads(done.stdout)
    if "error" in told:
        raise ModelRefused(f"the chat template of {whose} cannot be rendered: {told['error']}")
    return str(told["text"])


def _render(template: str, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
    """Rendered as transformers and vLLM do it: blocks trimmed, loop controls, their three functions."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    # A fixed day: a date in the prompt must not make two renderings differ.
    environment.globals["strftime_now"] = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).strftime
    pieces, size = [], 0
    stream = environment.from_string(template).generate(
        **{**variables, "messages": list(messages), "add_generation_prompt": True}
    )
    for piece in stream:
        size += len(piece.encode())
        if size > TEXT_BYTES:
            raise TemplateError(f"more than {TEXT_BYTES} bytes of text")
        pieces.append(piece)
    return "".join(pieces)


def main() -> int:
    """The child: limits first, then the template."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are not files: nothing can be written but the answer
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    asked = json.loads(sys.stdin.read())
    told: dict[str, str]
    try:
        told = {"text": _render(asked["template"], asked["messages"], asked["variables"])}
    except (TemplateError, SecurityError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        told = {"error": f"{type(error).__name__}: {error}"[:500]}
    except (MemoryError, OverflowError) as error:
        told = {"error": f"{type(error).__name__}: it needs more than {MEMORY_BYTES >> 20} MiB"}
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
