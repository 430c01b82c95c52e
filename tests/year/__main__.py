"""Live through a simulated year, and say whether it was as it must be: ``python -m tests.year``.

Exits 1 on any violation; the table is printed last.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

from tests.year.clock import START
from tests.year.history import RATES
from tests.year.hub import LIMITS
from tests.year.lived import Year
from tests.year.oracle import differences, violations
from tests.year.planning import measure_planning
from tests.year.simulation import live
from tests.year.truth import kind_of, truth_of

MOST_SHOWN = 60
PLANNING_SECONDS = 1.0
BREAKS = ("watermark", "settling", "claims")


def main() -> int:
    """Simulate, judge, print; 1 on any violation."""
    asked = _arguments()
    print(f"seed {asked.seed}; rates:")
    for name, rate in RATES.items():
        print(f"  {name}: {rate}")
    began, end = time.perf_counter(), START + timedelta(days=asked.days)
    # Each in a process of its own, since a simulation takes the place of the clock; at once where there are two cores.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        size = (asked.seed, asked.days, asked.families, asked.repositories)
        with_faults = pool.submit(live, *size, broken=asked.broken, database=asked.database)
        without = None if asked.broken else pool.submit(live, *size, faults=False)
        year = with_faults.result()
        calm = without.result() if without else None
        planning = pool.submit(measure_planning, repositories=10 * asked.repositories).result()
    found = violations(year, end, faults=True)
    if calm is not None:
        found += [f"without faults: {line}" for line in violations(calm, end, faults=False)]
        found += differences(year, calm, end)
    if planning["both"] > PLANNING_SECONDS:
        found.append(f"planning took {planning['both']:.2f} s of CPU, and at most {PLANNING_SECONDS} s are allowed")
    for line in found[:MOST_SHOWN]:
        print(f"VIOLATION {line}")
    if len(found) > MOST_SHOWN:
        print(f"... and {len(found) - MOST_SHOWN} more")
    _print_table(asked, year, calm, planning, time.perf_counter() - began, found)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.year", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--families", type=int, default=10)
    parser.add_argument("--repositories", type=int, default=3000)
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database for the year with faults")
    parser.add_argument("--break", dest="broken", choices=BREAKS, default="", help="leave one protection out")
    return parser.parse_args()


def _print_table(
    asked: argparse.Namespace,
    year: Year,
    calm: Year | None,
    planning: dict[str, float],
    wall: float,
    found: list[str],
) -> None:
    figures, counts = year.figures, year.figures["counts"]
    truth = truth_of(year.history, START + timedelta(days=asked.days))
    finished = Counter(end.outcome for end in year.ends)
    recorded = {(family, r.content_digest): r.seen_at for family, some in year.releases.items() for r in some}
    delays = sorted((recorded[k] - t.due).total_seconds() / 60 for k, t in truth.releases.items() if k in recorded)
    rows = {name: count for name, count in figures["rows"].items() if count}
    organisations = {o for plan in year.history.families for o in plan.organisations}
    cpu = [f"{one.figures['cpu']:.0f}" for one in (year, calm) if one is not None]
    lines = {
        "time lived through": f"{asked.days} days, {len(year.history.events):,} events at the Hub",
        "watched": f"{len(organisations)} organisations, {len({e.key for e in year.history.events}):,} repositories, "
        f"{asked.families} families x {RATES['targets']} targets",
        "releases": f"{len(recorded)} on record, {len(truth.releases)} true",
        "on record after settling": f"median {statistics.median(delays):.0f} min, longest {delays[-1]:.0f} min"
        if delays
        else "-",
        "jobs": f"{len(year.jobs):,} planned; " + _told(finished),
        "switches of channels": f"{sum(map(len, year.channels.values())):,}",
        "holds at the end": _told(Counter(kind_of(reason) for reason in year.holds.values())),
        "watches": f"{counts['watches']:,} of {len(figures['polls']):,} begun, "
        f"{counts['family watches']:,} families looked at",
        "watches with faults": _told({k: v for k, v in counts.items() if k.startswith("watches ")}),
        "webhooks": _told({k: v for k, v in counts.items() if k.startswith("webhook")}),
        "the Hub's failures": _told(figures["failures"]),
        "runs": _told(figures["fates"]),
        "calls": f"{figures['calls'].total():,}: " + _told(figures["calls"]),
        **_calls(figures),
        "ledger": f"{figures['bytes'] / 1e6:.1f} MB of {figures['database']} (no evaluations), "
        f"{sum(rows.values()):,} rows: " + _told(rows),
        "planning": f"300 releases x {RATES['targets']} targets {planning['planning']:.2f} s, "
        f"{10 * asked.repositories:,} repositories {planning['detection']:.2f} s, both {planning['both']:.2f} s of CPU "
        f"({planning['wall']:.2f} s by the clock); at most {PLANNING_SECONDS:.0f} s of CPU",
        "took": f"{wall:.0f} s by the clock; {' + '.join(cpu)} s of CPU with faults and without, side by side",
        **{kind: str(_count(found, kind)) for kind in ("missed", "doubled", "went back")},
        "violations": str(len(found)),
    }
    width = max(map(len, lines))
    print()
    for name, told in lines.items():
        print(f"{name:<{width}}  {told}")


def _calls(figures: dict[str, Any]) -> dict[str, str]:
    """What one watch asks, and what five minutes held at most, beside the Hub's limits for an unsigned address."""
    windows, counts = figures["windows"], figures["counts"]
    busiest = {bucket: max((n for (of, _), n in windows.items() if of == bucket), default=0) for bucket in LIMITS}
    idle = counts["idle calls"] / counts["idle watches"] if counts["idle watches"] else 0
    polls = [calls for _, calls in figures["polls"]]
    return {
        "calls of one watch": f"median {statistics.median(polls):.0f}, at most {max(polls)}; "
        f"of a whole idle one {idle:.0f}, {100 * idle / LIMITS['api']:.1f} % of {LIMITS['api']} api calls",
        "most calls in five minutes": ", ".join(f"{busiest[b]} of {LIMITS[b]} ({b})" for b in LIMITS),
    }


def _count(found: list[str], kind: str) -> int:
    return sum(line.removeprefix("without faults: ").startswith(kind) for line in found)


def _told(counted: Any) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counted.items()) or "none"


if __name__ == "__main__":
    sys.exit(main())
