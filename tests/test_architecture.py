"""The rules of the house: who may import what, how long a file may be, what loads without the heavy parts."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "safetensors", "numpy", "scipy", "lm_eval", "transformers", "vllm", "huggingface_hub", "matplotlib"}
NETWORK = {"httpx", "aiohttp", "starlette", "uvicorn", "requests"}
TASK_FILES = {f"tasks.{p.stem}" for p in (ROOT / "tasks").glob("*.py") if p.stem != "__init__"}
FOLDERS = {f"tasks.{p.name}" for p in (ROOT / "tasks").iterdir() if (p / "__init__.py").exists()}
BESIDE = FOLDERS - {"tasks.domain"}
ABOVE = {"flows", "deployments"}

# Room -> modules that it must never import. A folder of tasks/ is a room; the files in tasks/ are one room together.
FORBIDDEN = {
    "flows": HEAVY | NETWORK | FOLDERS - {"tasks.domain"} | {"deployments", "infra"},
    "tasks": HEAVY | NETWORK | ABOVE | {"infra"},
    "tasks/domain": HEAVY | NETWORK | ABOVE | TASK_FILES | FOLDERS | {"prefect", "sqlalchemy", "infra"},
    "tasks/engine": {"tasks", "prefect", "huggingface_hub", "lm_eval", "vllm", "transformers", "infra"}
    | NETWORK
    | ABOVE,
    "tasks/sources": (HEAVY - {"huggingface_hub"}) | ABOVE | TASK_FILES | BESIDE | {"prefect", "infra"},
    "tasks/publishing": (HEAVY - {"huggingface_hub"}) | ABOVE | TASK_FILES | BESIDE | {"prefect", "infra"},
    "tasks/harness": {"torch", "vllm", "safetensors", "prefect", "infra"} | ABOVE | TASK_FILES | BESIDE,
    "tasks/endpoints": HEAVY | ABOVE | TASK_FILES | BESIDE | {"prefect", "sqlalchemy", "infra"},
    "tasks/pictures": (HEAVY - {"matplotlib"})
    | NETWORK
    | ABOVE
    | TASK_FILES
    | BESIDE
    | {"prefect", "sqlalchemy", "infra"},
    "tasks/store": HEAVY | NETWORK | ABOVE | TASK_FILES | BESIDE | {"prefect", "infra"},
    "deployments": HEAVY,
    "infra/serving": ABOVE | {"tasks", "prefect", "infra"},
    "infra/local_hub": ABOVE | {"tasks", "prefect", "torch", "vllm", "huggingface_hub"},
    "infra/demo_family": {"prefect", "vllm", "flows"},
}
# The one exception to each room's rule.
ALLOWED = {
    "tasks/domain": {"tasks.engine.recipe"},
    "tasks/publishing": {"tasks.sources"},  # reading a Hub, and what its client's errors mean, stand once
    "deployments": {"infra.local_hub"},
}
MAX_LINES = {"flows": 80, "tasks": 155}
LONGEST = 400

MODULES = sorted(p for top in ("flows", "tasks", "deployments", "infra") for p in (ROOT / top).rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if "/".join(parts[:2]) in FORBIDDEN else parts[0]


def imported(path: Path) -> set[str]:
    """Every absolute module path that a file imports, at any depth of the file."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: -node.level] if node.level else ()
            stem = ".".join(filter(None, [*above, node.module]))
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return found


def within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def trespasses(room: str, names: set[str]) -> set[str]:
    own, allowed = room.replace("/", "."), ALLOWED.get(room, set())
    banned = {name for name in names for wall in FORBIDDEN[room] if within(name, wall)}
    # A room of its own below the banned one is no trespass: tasks.engine inside tasks/engine.
    own_names = {name for name in banned if "/" in room and within(name, own)}
    return {name for name in banned - own_names if not any(within(name, door) for door in allowed)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_keeps_to_its_room(path: Path):
    room = room_of(path)
    if room == "infra":
        pytest.fail(f"{path.relative_to(ROOT)} lies in no room; add it to FORBIDDEN")
    found = trespasses(room, imported(path))
    assert not found, f"{path.relative_to(ROOT)} lives in {room}/ and may not import {sorted(found)}"


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("flows", "torch"),
        ("flows", "tasks.store.ledger"),
        ("tasks", "flows.watch_hub"),
        ("tasks/domain", "prefect"),
        ("tasks/domain", "tasks.engine.stream"),
        ("tasks/engine", "tasks.domain.errors"),
        ("tasks/sources", "tasks.store.ledger"),
        ("tasks/publishing", "tasks.store.ledger"),
        ("tasks/harness", "torch"),
        ("tasks/endpoints", "vllm"),
        ("tasks/store", "tasks.endpoints.agent"),
        ("tasks/pictures", "tasks.store.ledger"),
        ("tasks", "matplotlib"),
        ("deployments", "torch"),
        ("infra/serving", "tasks.domain.errors"),
        ("infra/local_hub", "tasks.sources.hub"),
        ("infra/demo_family", "prefect"),
    ],
)
def test_a_planted_trespass_is_seen(room: str, name: str):
    assert trespasses(room, {name}) == {name}


def test_only_the_serving_room_imports_vllm():
    importers = {str(p.relative_to(ROOT)) for p in MODULES if any(within(n, "vllm") for n in imported(p))}
    assert importers
    assert all(name.startswith("infra/serving/") for name in importers), importers


def test_prefect_is_imported_only_in_flows_task_files_and_deployments():
    importers = {p.relative_to(ROOT) for p in MODULES if any(within(n, "prefect") for n in imported(p))}
    outside = {str(p) for p in importers if room_of(ROOT / p) not in {"flows", "tasks", "deployments"}}
    assert not outside


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_fits_on_a_few_screens(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES.get(room_of(path), LONGEST)


def test_flow_files_have_two_word_names():
    # Prefect may load flows/evaluate.py as the bare module `evaluate`, a name that lm-eval imports.
    assert not [p.name for p in (ROOT / "flows").glob("*.py") if "_" not in p.stem]


def test_the_top_level_has_no_seventh_room():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = {name.split("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    assert rooms <= {"flows", "tasks", "deployments", "tests", "infra"}


@pytest.mark.parametrize(
    "module",
    ["tasks.domain.catalog", "tasks.domain.verdict", "tasks.engine.recipe", "tasks.settings", "deployments.command"],
)
def test_light_rooms_load_without_the_heavy_parts(module: str):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'prefect', 'lm_eval', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_flows_load_without_torch():
    heavy = "('torch', 'lm_eval', 'matplotlib', 'jinja2.environment')"
    code = f"import sys, flows.remerge_release, flows.watch_hub; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")
