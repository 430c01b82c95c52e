"""``python -m tasks.harness``: one measurement in a process of its own, telling its progress as JSON lines.

    {"event": "progress", "benchmark": "eu_mc", "done": 512, "total": 3168}
    {"event": "result", "path": "/.../result.json", "seconds": {"import": 3.1, "measure": 24.0}}
    {"event": "error", "kind": "EndpointUnavailable", "message": "..."}

Exit codes: 0 done, 2 what was asked cannot be done, 3 may pass by itself, 143 ended by SIGTERM. The key of the endpoint
is read from EMPELT_API_KEY, since arguments can be read by everybody on the host.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from tasks.domain.errors import InputError, PipelineError
from tasks.harness.child import write_result
from tasks.harness.suite import PROMPTS_PER_REQUEST, Cost, refuse_unknown

if TYPE_CHECKING:
    from tasks.harness.run import Progress

_TELL_EVERY_SECONDS = 0.25


def main(argv: list[str] | None = None) -> int:
    """Measure as the arguments say; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    tell = _Teller(lines=arguments.json_lines)
    started = time.monotonic()
    try:
        refuse_unknown(arguments.benchmarks.split(","))  # before the seconds that the imports take
        _import_less()
        from tasks.harness.run import evaluate

        imported = time.monotonic()
        logging.getLogger("tasks").setLevel(logging.INFO)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        sent: dict[str, Cost] = {}
        scores = evaluate(
            base_url=arguments.base_url,
            model=arguments.model,
            folder=arguments.folder,
            benchmarks=arguments.benchmarks.split(","),
            batch_size=arguments.batch_size,
            concurrency=arguments.concurrency,
            api_key=os.environ.get("EMPELT_API_KEY"),
            chat_template={"auto": None, "server": True, "none": False}[arguments.chat_template],
            prefix_token_id=arguments.prefix_token_id,
            split=arguments.split,
            span=arguments.span,
            timeout_seconds=arguments.timeout_seconds,
            wait_seconds=arguments.wait_seconds,
            on_progress=tell.progress,
            on_sent=sent.update,
        )
        seconds = {"import": round(imported - started, 2), "measure": round(time.monotonic() - imported, 2)}
        write_result(arguments.out, scores, seconds, sent)
    except PipelineError as error:
        tell(event="error", kind=type(error).__name__, message=str(error))
        return 2 if isinstance(error, InputError) else 3
    except SystemExit:
        tell(event="error", kind="Terminated", message="ended by SIGTERM; nothing was written")
        raise
    tell(event="result", path=str(arguments.out), seconds=seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.harness", description="Measure one served model.")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--benchmarks", required=True, help="names, joined by commas")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--json-lines", action="store_true", help="progress and result as JSON lines on stdout")
    parser.add_argument("--batch-size", type=int, default=PROMPTS_PER_REQUEST)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--chat-template", choices=("auto", "server", "none"), default="auto")
    parser.add_argument("--prefix-token-id", type=int)
    parser.add_argument("--split", default="test")
    parser.add_argument("--span", default="0:1", help="which items, as shares of them in their order")
    parser.add_argument("--timeout-seconds", type=float, default=120.0)
    parser.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for the server to know the model")
    return parser


def _import_less() -> None:
    """Keep lm-eval's import small and local; 5.8 s of CPU time became 4.2 s (of which pandas, through datasets, 2.1).

    chardet (tables of 40 languages, through requests, which does without) and redis (through sacrebleu's file locks)
    are never used here. The hub clients must not look for a network that a gate may not depend on.
    """
    modules: dict[str, Any] = sys.modules
    for unused in ("chardet", "redis"):
        modules.setdefault(unused, None)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


class _Teller:
    """Writes events to stdout, progress not more often than anybody can see."""

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines
        self._told = 0.0

    def __call__(self, **event: Any) -> None:
        if self._lines:
            sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(" ".join(f"{key}={value}" for key, value in event.items()) + "\n")
        sys.stdout.flush()

    def progress(self, progress: "Progress") -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_SECONDS or progress.done == progress.total:
            self._told = now
            self(event="progress", **progress._asdict())


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    try:
        code = main()
    except BrokenPipeError:  # whoever reads our progress is gone, so nobody wants the result
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 3
    sys.exit(code)
