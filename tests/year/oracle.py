"""What a lived year must look like, and where it does not.

What is true of its history is found out without the product (truth.py). Beyond that: the newest release is merged for
every target, and an older one only if nothing newer came while it waited; nothing is done twice; no channel goes back.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from tests.year.lived import End, Year
from tests.year.truth import LATE, SOON, True_, Truth, kind_of, truth_of
from tests.year.workers import outcome_of

OVERTAKEN = timedelta(hours=48)
"""A release that is followed by another within this time need not be merged: it may have waited for a worker or a person."""
FINISHED = ("published", "rejected", "kept")
EXCUSED = ("stalls", "late", "dies")
"""Fates of runs that lost their lease: such a run may finish, and another one finishes the job."""


def violations(year: Year, end: datetime, *, faults: bool) -> list[str]:
    """Every way in which the lived year is not as it must be, one line each."""
    truth = truth_of(year.history, end)
    return [
        *year.problems,
        *_releases(year, truth, LATE if faults else SOON),
        *_jobs(year, truth),
        *_channels(year, truth),
        *_holds(year, truth),
        *([f"{year.working} runs have not come to an end"] if year.working else []),
    ]


def _releases(year: Year, truth: Truth, bound: timedelta) -> Iterator[str]:
    recorded = {(family, r.content_digest): r for family, found in year.releases.items() for r in found}
    for key, true in truth.releases.items():
        if key not in recorded:
            if true.certain:
                yield f"missed: the release {true.digest[:12]} of {true.family}, settled at {true.due}"
            continue
        seen = recorded[key].seen_at
        if seen < true.due:
            yield f"early: {recorded[key].ref} was put on record at {seen}, and settled at {true.due}"
        if seen > true.due + bound and true.certain:
            yield f"late: {recorded[key].ref} settled at {true.due} and was put on record {seen - true.due} later"
    for key in recorded.keys() - truth.releases.keys():
        yield f"no release: {recorded[key].ref} of {key[0]} is on record, and is none"


def _jobs(year: Year, truth: Truth) -> Iterator[str]:
    ended: dict[tuple[str, str, str], list[End]] = defaultdict(list)
    for end in year.ends:
        if end.outcome in FINISHED:
            ended[year.jobs[end.job_key]].append(end)
    targets = {target for _, target, _ in year.jobs.values()}
    recorded = {(family, r.content_digest) for family, found in year.releases.items() for r in found}
    for family, target, digest in ended.keys():
        if (family, digest) not in truth.releases:
            yield f"job for what is no release: {family} x {target}, {digest[:12]}"
    for (family, digest), true in truth.releases.items():
        for target in targets if (family, digest) in recorded else ():
            ends = ended[family, target, digest]
            expected, told = outcome_of(digest, target), f"{family} x {target}, {digest[:12]} of {true.due:%m-%d %H:%M}"
            sound = [end for end in ends if year.runs.get(end.run) not in EXCUSED]
            if len(sound) > 1:
                yield f"doubled: {told} was finished by {len(sound)} runs that never lost their lease"
            if any(
                end.outcome != expected and not _stepped_back(end, expected, true, target, year, truth) for end in ends
            ):
                yield f"wrong end: {told} ended as {[end.outcome for end in ends]}, expected {expected}"
            if not ends and true.certain and not _overtaken(true, target, year, truth):
                yield f"no job finished: {told}"


def _stepped_back(end: End, expected: str, true: True_, target: str, year: Year, truth: Truth) -> bool:
    """Whether the candidate was good, and the channel served a newer release by then: that one stays."""
    served = year.served_at(f"{true.family}-{target}", end.at)
    live = _release_of(served, year, truth) if served is not None else None
    return (expected, end.outcome) == ("published", "kept") and live is not None and _may_be_newer(live, true, year)


def _overtaken(true: True_, target: str, year: Year, truth: Truth) -> bool:
    """Whether a newer release that was not rejected came so soon that this one need not be merged."""
    return any(
        other.family == true.family
        and other.digest != true.digest
        and other.due - true.due < OVERTAKEN
        and _may_be_newer(other, true, year)
        and outcome_of(other.digest, target) != "rejected"
        for other in truth.releases.values()
    )


def _may_be_newer(one: True_, other: True_, year: Year) -> bool:
    """Whether ``one`` came out after ``other``, or so little before it that no watch came between the two."""
    return one.out >= other.out or not year.looked_between(one.family, one.out, other.out)


def _release_of(promotion: Any, year: Year, truth: Truth) -> True_ | None:
    """What a promotion made live."""
    digest = next(r.content_digest for r in year.releases[promotion.family] if r.ref == promotion.release)
    return truth.releases.get((promotion.family, digest))


def _channels(year: Year, truth: Truth) -> Iterator[str]:
    for channel, newest_first in year.channels.items():
        served: list[True_] = []
        for promotion in reversed(newest_first):
            true = _release_of(promotion, year, truth)
            if true is None:
                continue  # told above
            if served and not _may_be_newer(true, served[-1], year):
                yield f"went back: {channel} served the release of {served[-1].out}, and then that of {true.out}"
            if any(before.digest == true.digest for before in served):
                yield f"doubled: {channel} was switched to {promotion.release} twice"
            served.append(true)


def _holds(year: Year, truth: Truth) -> Iterator[str]:
    found = set()
    for key, reason in year.holds.items():
        if not key.startswith("release:"):
            yield f"hold without need: {key} ({reason})"
            continue
        found.add((key.removeprefix("release:").partition("@")[0], kind_of(reason)))
    for name, kind in sorted(truth.holds - found):
        yield f"not held: {name} should be, as {kind}"
    for name, kind in sorted(found - truth.holds):
        yield f"held: {name} as {kind}, and should not be"


def differences(year: Year, other: Year, end: datetime) -> list[str]:
    """Where a year with faults has another end than the same year without them."""
    truth, told = truth_of(year.history, end), []
    for family, releases in year.releases.items():
        ours, theirs = {r.content_digest for r in releases}, {r.content_digest for r in other.releases[family]}
        certain = {digest for of, digest in truth.releases if of == family and truth.releases[of, digest].certain}
        told += [f"only with faults or only without: {family} {d[:12]}" for d in (ours ^ theirs) & certain]
    kinds = [{(key.partition("@")[0], kind_of(reason)) for key, reason in y.holds.items()} for y in (year, other)]
    told += [f"held only with faults or only without: {one}" for one in sorted(kinds[0] ^ kinds[1])]
    for channel, promotions in year.channels.items():
        last = [_last(y, channel, truth) for y in (year, other)]
        if last[0] != last[1] and (None in last or abs(last[0].out - last[1].out) > OVERTAKEN):  # type: ignore[union-attr]
            told.append(f"{channel} serves {last[0]} with faults, {last[1]} without; {len(promotions)} switches")
    return told


def _last(year: Year, channel: str, truth: Truth) -> True_ | None:
    if not year.channels[channel]:
        return None
    return _release_of(year.channels[channel][0], year, truth)
