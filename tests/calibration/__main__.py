"""``python -m tests.calibration``: the table of false passes and power; exit code 1 if a promise is not kept.

--draws N   simulated evaluations of each truth (100,000)
--json      one JSON object instead of the table
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime

from tests.calibration.simulation import ALLOWED, DRAWS, SEED, SLACK, cases, play


def main() -> int:
    """Play all cases, print the table last."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began, found = time.monotonic(), []
    for case in cases():
        found.append(play(case, arguments.draws))
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {case.name}\n")
    broken = [one for one in found if not one.holds]
    if arguments.json:
        rows = [{**one._asdict(), "case": one.case.name, "n": one.case.n, "holds": one.holds} for one in found]
        sys.stdout.write(json.dumps({"draws": arguments.draws, "allowed": ALLOWED, "rows": rows}) + "\n")
        return 1 if broken else 0
    print(
        f"{arguments.draws:,} evaluations of each truth, seed {SEED}, {datetime.now(UTC):%Y-%m-%d}; false passes: one-sided 99 % bound"
    )
    print(f"at most {ALLOWED:g}, power at most {SLACK:g} below what is stated\n")
    print("| case | n | margin | false pass | 99 % bound | power | stated | items asked | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in found:
        figures = f"{one.false_pass:.4f} | {one.upper:.4f} | {one.power:.3f} | {one.stated:.3f} | {one.items:.0%}"
        print(f"| {one.case.name} | {one.case.n} | {one.case.margin:g} | {figures} | {'' if one.holds else 'BROKEN'} |")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
