"""One simulated installation: its catalog, its ledger, its source and its clock, put where the product looks for them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import yaml
from prefect.logging import disable_run_logger
from sqlalchemy import event as sqlalchemy_event

import tasks.hub
import tasks.ledger
import tasks.plan
import tasks.publish
from tasks import doors
from tasks.store.ledger import Ledger
from tests.year.clock import Clock
from tests.year.events import DENIED, LANGUAGES, FamilyPlan

GATE = {
    "name": "year",
    "rule": "point",
    "checks": [{"benchmark": "en_chat", "metric": "strict", "floor": 0.1, "critical": True}],
}


def write_catalog(folder: Path, plans: list[FamilyPlan]) -> None:
    """A real catalog: one family for each plan, with a target for each language."""
    (folder / "gates").mkdir(parents=True)
    (folder / "gates" / "year.yaml").write_text(yaml.safe_dump(GATE))
    for plan in plans:
        recipe = {"method": "task_arithmetic", "instruct_weight": 1.0, "tuned_weight": 0.75}
        owners = "|".join(plan.organisations)
        family = {
            "family": plan.name,
            "architectures": ["LlamaForCausalLM"],
            "base": {"repo": plan.base},
            "instruct": {
                "organizations": list(plan.organisations),
                "pattern": rf"(?:{owners})/{plan.label}-Instruct(?:-[\w.-]+)?",
                "deny": list(DENIED),
            },
            "tuned_bases": {code: {"repo": plan.tuned(code)} for code in LANGUAGES},
            "targets": {
                code: {"languages": [code], "channel": f"{plan.name}-{code}", "recipe": recipe, "gate": "year"}
                for code in LANGUAGES
            },
        }
        (folder / f"{plan.name}.yaml").write_text(yaml.safe_dump(family))


@contextmanager
def installation(
    home: Path,
    plans: list[FamilyPlan],
    clock: Clock,
    *,
    database: str = "",
    settle_seconds: int = 3600,
    window: int = 24,
    kind: type[Ledger] = Ledger,
) -> Iterator[SimpleNamespace]:
    """The product's doors open on a simulated world: ``ledger``, ``runtime``, and ``use(source, start_run)``.

    Args:
        home: an empty folder.
        plans: the families.
        clock: what everything asks for the time.
        database: URL of an empty database; a SQLite file in ``home`` if empty.
        settle_seconds: as EMPELT_SETTLE_SECONDS.
        window: as EMPELT_WINDOW.
        kind: the ledger's class; a simulation that is broken on purpose brings its own.
    """
    write_catalog(home / "catalog", plans)
    chosen = {
        "EMPELT_HOME": str(home),
        "EMPELT_CATALOG": str(home / "catalog"),
        "EMPELT_FAMILIES": ",".join(plan.name for plan in plans),
        "EMPELT_LEDGER_URL": database,
        "EMPELT_SETTLE_SECONDS": str(settle_seconds),
        "EMPELT_WINDOW": str(window),
        "EMPELT_TARGETS": "",
    }
    runtime = SimpleNamespace(run="watch", get_id=lambda: runtime.run, get_run_count=lambda: 1, get_parameters=dict)
    with ExitStack() as stack:
        # What is exchanged is the world and not the product: clock, source, and Prefect's run, of which there is no server
        # here. A year on a real clock would take one.
        stack.enter_context(patch.dict("os.environ", chosen))
        doors.forget()
        stack.callback(doors.forget)
        stack.enter_context(disable_run_logger())
        ledger = stack.enter_context(kind.open(doors.settings().ledger, now=clock))
        if ledger.address.startswith("sqlite"):
            # No power is cut in this test, and a year's commits would be waited for one by one; crashes of the machine
            # are the crash matrix's part.
            sqlalchemy_event.listen(ledger._engine, "connect", _do_not_wait_for_the_disk)
            ledger._engine.dispose()
        stack.enter_context(patch.object(time, "sleep", clock.sleep))
        for module in (tasks.ledger, tasks.publish):
            stack.enter_context(patch.object(module, "flow_run", runtime))
        _swap(stack, "open_ledger", doors.open_ledger, lambda: ledger)
        _swap(
            stack, "datetime", datetime, clock.type(), only=("tasks.hub", "tasks.jobs", "tasks.plan", "tasks.admission")
        )
        catalog = doors.open_catalog()
        _swap(stack, "open_catalog", doors.open_catalog, lambda: catalog)

        def use(source: object, start_run: Callable[..., Any]) -> None:
            _swap(stack, "open_source", doors.open_source, lambda: source)
            stack.enter_context(patch.object(tasks.plan, "start_run", start_run))

        yield SimpleNamespace(ledger=ledger, runtime=runtime, use=use)


def _swap(stack: ExitStack, name: str, found: object, replacement: object, only: tuple[str, ...] = ()) -> None:
    """Put ``replacement`` wherever a module of the product has imported ``found`` as ``name``."""
    for module_name, module in list(sys.modules.items()):
        ours = module_name.startswith("tasks.") and (not only or module_name in only)
        if ours and vars(module).get(name) is found:
            stack.enter_context(patch.object(module, name, replacement))


def _do_not_wait_for_the_disk(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")
