"""What `empelt explain` found, as people read it."""

from collections.abc import Mapping
from typing import Any

from deployments.showing import human_bytes, table

Told = Mapping[str, Any]


def as_text(told: Told) -> str:
    """One line for each thing that is known, and a table for each verdict."""
    lines = _repository(told) if told["kind"] == "repository" else _artifact(told)
    return "\n".join(lines)


def _repository(told: Told) -> list[str]:
    revision = f"@{told['revision'][:12]}" if told["revision"] else ""
    lines = [f"{told['repo']}{revision}", f"  at the Hub   {told['hub']['says']}"]
    for role in told["roles"]:
        of = f" {role['language']}" if role["language"] else ""
        lines.append(f"  catalog      {role['role']}{of} of {role['family']}")
    for one in told["recognition"]:
        notes = "".join(f"; {note}" for note in one["notes"])
        lines.append(f"  recognised   by {one['family']}: {one['verdict']}. {one['reason']}{notes}")
    for one in told["preflight"]:
        if one["ok"]:
            size = f"{one['tensors']} tensors, {one['parameters']:,} parameters, {human_bytes(one['download_bytes'])}"
            lines.append(f"  pre-flight   for {one['family']}: passes ({', '.join(one['architectures'])}, {size})")
        else:
            lines.append(f"  pre-flight   for {one['family']}: refused")
            lines += [f"    - {problem}" for problem in one["problems"]]
    for one in told["releases"]:
        lines.append(
            f"  on record    release {one['revision'][:12]} of {one['family']}, released {one['released_at'][:16]}, "
            f"content {one['content_digest'][:12]}"
        )
    lines += [f"  held         {one['what']} since {one['since'][:16]}: {one['why']}" for one in told["holds"]]
    for job in told["jobs"]:
        lines += _job(job)
    return lines


def _job(job: Told) -> list[str]:
    tried = f", {job['attempts']} attempt(s)" if job["attempts"] else ""
    lines = ["", f"x {job['target']} ({job['revision'][:12]}): {job['standing']}{tried}. {job['why']}"]
    if job["verdict"]:
        lines += _verdict(job["verdict"])
    lines += [f"  run          {address}" for address in job["runs"]]
    return [*lines, f"  due again    {job['due_again']}"]


def _artifact(told: Told) -> list[str]:
    lines = [f"artifact {told['artifact']}"]
    if told["kind"] == "channel":
        seen = "" if told["visible"] else ", not visible yet"
        lines.insert(0, f"channel {told['channel']}: {told['release']} x {told['target']}, since {told['since'][:16]}")
        lines[0] += f", generation {told['generation']}{seen}"
    if told["lineage"] is None:
        lines.append("  made         not here: it has no lineage on record")
    else:
        for one in told["lineage"]["ingredients"]:
            ref = f"{one['ref']['repo_id']}@{one['ref']['revision'][:12]}"
            lines.append(f"  {one['role']:<12} {ref}, content {one['digest'][:12]}")
        recipe = ", ".join(f"{key} {value}" for key, value in told["lineage"]["recipe"].items())
        lines.append(f"  recipe       {recipe}; engine {told['lineage']['engine_version']}")
    for verdict in told["verdicts"]:
        lines += ["", f"judged for {verdict['family']} x {verdict['target']}", *_verdict(verdict)]
    for one in told["promotions"]:
        lines.append(f"  served       {one['channel']} generation {one['generation']}, {one['at'][:16]}: {one['why']}")
        lines += [f"  run          {one['run']}"] if one["run"] else []
    return lines


def _verdict(verdict: Told) -> list[str]:
    lines = [f"  verdict      {verdict['outcome']} ({verdict['at'][:16]})"]
    lines += [f"    {reason}" for reason in verdict["reasons"]]
    if verdict["critical"]:
        columns = ("critical slice", "metric", "score", "n", "limit", "parents", "live", "")
        shown = table(columns, [_cells(row) for row in verdict["critical"]])
        lines += [f"    {line}" for line in shown.splitlines()]
    return [*lines, f"  page         {verdict['page']}"] if verdict["page"] else lines


def _cells(row: Told) -> tuple[str, ...]:
    score = "unscored" if row["score"] is None else f"{row['score']:.3f} +- {row['stderr'] or 0:.3f}"
    parents = ", ".join(f"{role} {_number(value)}" for role, value in (row["parents"] or {}).items())
    mark = {True: "ok", False: "FAILS"}.get(row["ok"], "undecided")
    live = "" if row["live"] is None else _number(row["live"])
    return (row["benchmark"], row["metric"], score, str(row["n"]), row["limit"], parents, live, mark)


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.3f}"
