"""``python -m tests.must_block``: models that must not be published, judged by the product on a real server.

    python -m tests.must_block                          all of them, and the two that must pass
    python -m tests.must_block --sample 4 --seed 1      four of them, and the good one
    python -m tests.must_block --only "NaN layer" good  these
    python -m tests.must_block --resume                 goes on where a run in the same home was cut off
    python -m tests.must_block --json FILE              the table as JSON too

Exit code 0 if each ends as it must, for the reason for which it is wrong, and the clear ones took at most 40 % of a full
run's requests on the mean; else 1. The table comes last.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.must_block.cases import CASES, Case
from tests.must_block.fixtures import INSTRUCT, ROOT, TUNED
from tests.must_block.table import Finding, Result, as_json, problems_of, table


def main() -> int:
    """Judge what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.must_block", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=[case.name for case in CASES])
    parser.add_argument(
        "--sample", type=int, metavar="N", help="so many of those that must be blocked, and the good one"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--resume", action="store_true", help="what this home has judged is not judged again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the table is written as JSON")
    parser.add_argument("--home", type=Path, default=ROOT / ".empelt" / "must-block")
    parser.add_argument("--port", type=int, default=8770, help="of the gateway")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    began = time.monotonic()
    cases, home = chosen(asked.only, asked.sample, asked.seed), asked.home.absolute()
    kept = home / "results.jsonl"
    if not asked.resume:
        kept.unlink(missing_ok=True)
    left = [case for case in cases if case.name not in read_results(kept)]
    if left:
        run(left, home, asked.port, kept)
    findings = [Finding(case, read_results(kept)[case.name]) for case in cases]
    seconds = time.monotonic() - began
    if asked.json is not None:
        asked.json.write_text(json.dumps(as_json(findings, seconds), indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(table(findings, seconds))
    return 1 if problems_of(findings) else 0


def chosen(only: Sequence[str] | None, sample: int | None, seed: int) -> list[Case]:
    """The cases to judge, in their order."""
    if only:
        return [case for case in CASES if case.name in only]
    blocking = [case for case in CASES if case.blocks]
    if sample is not None:
        some = random.Random(seed).sample(blocking, min(sample, len(blocking)))
        return [case for case in CASES if case in some or case.name == "good"]
    return list(CASES)


def run(cases: Sequence[Case], home: Path, port: int, kept: Path) -> None:
    """Judge them one after the other on one host; each result is a line of ``kept`` as soon as it is there."""
    from tests.must_block.judging import judged  # not for the tests of the table: it loads all that serves and judges
    from tests.must_block.serving import site

    work = home / "models"
    work.mkdir(parents=True, exist_ok=True)
    with site(home / "host", port, (INSTRUCT, TUNED)) as there:
        for case in cases:
            print(f"{case.name}:", flush=True)
            found = judged(case, there, work)
            print(f"    {found.outcome} by {found.decided} after {found.requests} requests", flush=True)
            with kept.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found._asdict(), ensure_ascii=False) + "\n")


def read_results(kept: Path) -> dict[str, Result]:
    """What was judged so far, by the case's name; the last word on each."""
    lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
    found = [Result(**{**told, "reasons": tuple(told["reasons"])}) for told in map(json.loads, lines)]
    return {one.name: one for one in found}


if __name__ == "__main__":
    sys.exit(main())
