"""The root documents, the compose file and the images say only what is there: commands, variables, paths, tests."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deployments.command import app
from tasks.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ("README.md", "ARCHITECTURE.md", "OPERATIONS.md", "BENCHMARKS.md", "CONTRIBUTING.md", "CHANGELOG.md")
FOR_USERS = ("README.md", "OPERATIONS.md", "BENCHMARKS.md", "CONTRIBUTING.md")
# Variables that other programs read: children, setup.sh, the launcher, the demo, `empelt up` itself, the compose file.
ELSEWHERE = {"CHILD", "SETTINGS", "SERVING", "LAUNCHER", "DEMO_HUB_PORT", "INSTANCE", "DB_PASSWORD"}
SUFFIXES = (".py", ".yaml", ".md", ".sh", ".toml", ".txt", ".lock", ".Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
DOCKERFILES = sorted((ROOT / "infra/images").glob("*.Dockerfile"))


@cache
def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def fenced(document: str) -> list[str]:
    """Lines of fenced and indented code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(document), re.MULTILINE | re.DOTALL)
    indented = [line for line in text_of(document).splitlines() if line.startswith("    ")]
    return [line for block in blocks for line in block.splitlines()] + indented


def inline(document: str) -> list[str]:
    """Code in the running text."""
    prose = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@cache
def commands() -> dict[str, set[str]]:
    """Every `empelt` command with its options, those of its sub-commands among them."""
    group: Any = typer.main.get_command(app)
    parts = {name: [c, *getattr(c, "commands", {}).values()] for name, c in group.commands.items()}
    return {name: {o for c in of for p in c.params for o in p.opts} | {"--help"} for name, of in parts.items()}


@cache
def repository() -> frozenset[str]:
    """Every file, relative to the root; without environments and caches."""
    tops = ("flows", "tasks", "deployments", "tests", "infra", ".ci")
    inside = [p for top in tops for p in (ROOT / top).rglob("*") if "__pycache__" not in p.parts]
    return frozenset(str(p.relative_to(ROOT)) for p in [*inside, *ROOT.glob("*")] if p.is_file())


@cache
def names_in(path: str) -> frozenset[str]:
    """Functions, classes and variables at the top of a module."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    defined = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    assigned = {t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return frozenset(defined | assigned)


@pytest.mark.parametrize("document", FOR_USERS)
def test_every_make_target_exists(document: str):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m for code in (*fenced(document), *inline(document)) for m in re.findall(r"\bmake ([a-z][\w-]*)", code)}
    assert named <= targets


@pytest.mark.parametrize("document", FOR_USERS)
def test_every_empelt_command_and_option_exists(document: str):
    table = [line for line in text_of(document).splitlines() if line.startswith("| `empelt ")]
    wrong = []
    for code in (*fenced(document), *inline(document), *table):
        for name, rest in re.findall(r"(?:^|[\s/`])empelt ([a-z]+)\b([^#]*)", code):
            options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
            if unknown := options - commands().get(name, set()) or ({name} - commands().keys()):
                wrong.append(f"{code.strip()}: {sorted(unknown)}")
    assert not wrong


def test_the_readme_has_every_command_that_people_see():
    group: Any = typer.main.get_command(app)
    rows = re.findall(r"^\| `empelt ([a-z]+)", text_of("README.md"), re.MULTILINE)
    assert sorted(rows) == sorted(name for name, command in group.commands.items() if not command.hidden)


def test_every_named_test_exists():
    named = [found for d in DOCS for found in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text_of(d))]
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if path not in repository() or name not in names_in(path)]
    assert not missing


@pytest.mark.parametrize("document", DOCS)
def test_every_named_path_exists(document: str):
    missing = []
    for code in inline(document):
        path = code.split("::")[0].rstrip("/")
        if re.search(r"[\s<>*$=:{}]", path) or path.startswith((".empelt", ".venv")):
            continue
        if path.split("/")[0] in {"flows", "tasks", "deployments", "tests", "infra", ".ci"}:
            found = (ROOT / path).exists()
        elif path.endswith(SUFFIXES) and not path.startswith("/"):
            found = any(f"/{name}".endswith(f"/{path}") for name in repository())
        else:
            continue
        missing += [] if found else [code]
    assert not missing


@pytest.mark.parametrize("document", DOCS)
def test_every_link_leads_somewhere(document: str):
    targets = re.findall(r"\]\(([^)#\s]+)", text_of(document))
    assert not [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]


def test_the_tree_in_the_readme_names_folders_that_are_there():
    block = text_of("README.md").split("## The tree")[1].split("```")[1]
    folders = [line.split()[0] for line in block.splitlines() if line.strip()]
    assert not [folder for folder in folders if not (ROOT / folder).is_dir()]
    rooms = {p.name for p in (ROOT / "tasks").iterdir() if (p / "__init__.py").exists()}
    assert rooms == {f.split("/")[1] for f in folders if f.startswith("tasks/") and f != "tasks/"}


def test_every_setting_is_in_operations():
    table = text_of("OPERATIONS.md").split("## Variables")[1].split("\n## ")[0]
    rows = {m[1]: m[0] for m in re.finditer(r"^\| EMPELT_(\w+) \|.*$", table, re.MULTILINE)}
    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = (
            field.default.relative_to(ROOT)
            if isinstance(field.default, Path) and field.default.is_absolute()
            else field.default
        )
        if shown not in ("", None):
            assert f"| {shown} |" in rows[name.upper()].replace("`", ""), f"the default of {name} is {shown}"


@pytest.mark.parametrize("document", DOCS)
def test_every_variable_that_is_named_is_read_by_something(document: str):
    known = {name.upper() for name in Settings.model_fields} | ELSEWHERE
    named = set(re.findall(r"EMPELT_([A-Z][A-Z_]*[A-Z])", text_of(document)))
    assert named <= known


def test_the_changelog_begins_with_the_version_of_the_project():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert version
    assert newest
    assert newest[1] == version[1]


# --- containers: what can be read, since nothing of it was ever run ---------------------------------------------------


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_service_names_a_command_and_an_image_that_exist(service: str):
    told = COMPOSE["services"][service]
    if "build" in told:
        context = (ROOT / "infra" / told["build"]["context"]).resolve()
        assert (context / told["build"]["dockerfile"]).is_file()
    if told.get("command", [""])[0] == "empelt":
        assert told["command"][1] in commands()
    assert set(told.get("depends_on", ())) <= COMPOSE["services"].keys()
    ours = {name.removeprefix("EMPELT_") for name in told.get("environment", {}) if name.startswith("EMPELT_")}
    assert ours <= {name.upper() for name in Settings.model_fields}
    mounted = {volume.split(":")[0] for volume in told.get("volumes", ())}
    assert mounted <= COMPOSE["volumes"].keys()


def test_the_launcher_of_the_compose_file_is_asked_with_its_own_options():
    options = {word for word in COMPOSE["services"]["launcher"]["command"] if word.startswith("--")}
    known = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', (ROOT / "infra/serving/launcher.py").read_text()))
    assert {"--socket", "--logs"} <= options <= known


def test_ports_of_the_compose_file_are_on_loopback():
    ports = [port for told in COMPOSE["services"].values() for port in told.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_an_image_copies_what_is_there_and_runs_as_nobody_special(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1] if not word.startswith("--")
    ]
    assert not [source for source in copied if not (ROOT / source).exists()]
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER empelt"


@pytest.mark.parametrize("path", [ROOT / "infra/compose.yaml", *DOCKERFILES], ids=lambda p: p.name)
def test_what_was_never_run_says_so(path: Path):
    assert re.search(r"NEVER (RUN|BUILT)", path.read_text(encoding="utf-8"))
