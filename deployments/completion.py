"""What a shell offers after <TAB>: names from the catalog's files and the ledger. Quick, and silent on errors.

Nothing is asked over the network, and a ledger that does not exist yet is not made.
"""

from collections.abc import Callable, Iterable
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from tasks.domain.errors import PipelineError
from tasks.settings import settings

QUIET = (PipelineError, ValidationError, OSError, UnicodeDecodeError, yaml.YAMLError)
"""What a broken installation may raise; a shell must not show it in the middle of a line."""


def families(incomplete: str) -> list[str]:
    """Families of the catalog."""
    return _offered(lambda: (path.stem for path in settings().catalog.glob("*.yaml")), incomplete)


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Targets of the family named before, else of all that run here."""
    return _offered(lambda: _of_families(ctx, lambda told: told.get("targets", {})), incomplete)


def languages(ctx: typer.Context, incomplete: str) -> list[str]:
    """Languages that the family has a tuned base for."""
    return _offered(lambda: _of_families(ctx, lambda told: told.get("tuned_bases", {})), incomplete)


def bases(incomplete: str) -> list[str]:
    """Tuned bases of all families that run here, as ``family/language``."""

    def names() -> Iterable[str]:
        for name in families(""):
            told = yaml.safe_load((settings().catalog / f"{name}.yaml").read_text(encoding="utf-8"))
            yield from (f"{name}/{code}" for code in told.get("tuned_bases", {}))

    return _offered(names, incomplete)


def gates(incomplete: str) -> list[str]:
    """Gates of the catalog."""
    return _offered(lambda: (path.stem for path in (settings().catalog / "gates").glob("*.yaml")), incomplete)


def channels(incomplete: str) -> list[str]:
    """Channels that have served something."""
    return _offered(lambda: (state.channel for state in _ledger().channels()), incomplete)


def explainable(incomplete: str) -> list[str]:
    """Releases on record, and channels."""

    def names() -> Iterable[str]:
        ledger = _ledger()
        found = {release.ref.repo_id for name in families("") for release in ledger.releases(name)}
        return [*found, *(state.channel for state in ledger.channels())]

    return _offered(names, incomplete)


def stopped_names(incomplete: str) -> list[str]:
    """What `empelt retry` could lift: jobs by their names, other holds by their keys."""

    def names() -> Iterable[str]:
        ledger = _ledger()
        from tasks.standing import stopped  # needs a ledger

        jobs = {fact.job_key: fact.job.name for fact in ledger.jobs()}
        return [jobs.get(hold.key, hold.key) for hold in stopped()]

    return _offered(names, incomplete)


def _of_families(ctx: typer.Context, section: Callable[[dict[str, Any]], Iterable[str]]) -> Iterable[str]:
    named = (ctx.params or {}).get("family")
    names = [named] if named else list(settings().family_names) or families("")
    for name in names:
        told = yaml.safe_load((settings().catalog / f"{name}.yaml").read_text(encoding="utf-8"))
        yield from section(told if isinstance(told, dict) else {})


def _ledger() -> Any:
    chosen = settings()
    if not chosen.ledger_url and not (chosen.home / "ledger.db").exists():
        raise FileNotFoundError(chosen.ledger)
    from tasks.doors import open_ledger  # SQLAlchemy: 0.5 s that the other completions need not wait for

    return open_ledger()


def _offered(names: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    try:
        return sorted({name for name in names() if name.startswith(incomplete)})
    except QUIET:
        return []
