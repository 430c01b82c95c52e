"""``python -m tasks.engine`` as another process sees it."""

import json
import signal
import subprocess
import sys

import pytest

from tasks.engine.__main__ import main
from tasks.engine.merge import merge
from tasks.engine.recipe import Recipe

COMMAND = [sys.executable, "-m", "tasks.engine"]


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_json_lines_are_progress_and_then_a_report(family):
    done = run(family.config({"method": "linear"}, max_shard_bytes=2000), family.out, "--json-lines")
    assert done.returncode == 0, done.stderr
    *progress, report = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in progress} == {"progress"}
    assert progress[-1]["done"] == progress[-1]["total"]
    expected = merge(Recipe(method="linear"), **family.inputs, out=family.root / "out-2", max_shard_bytes=2000)
    assert report["event"] == "report"
    assert report["files"] == {name: digest._asdict() for name, digest in expected.files.items()}
    assert report["coefficients"] == {"a": 0.5, "b": {"eu": 0.5}}
    assert report["norms"] == expected.norms
    assert report["peak_rss_bytes"] > 0


def test_without_json_there_is_one_line_for_people(family, capsys):
    assert main([str(family.config({"method": "linear"})), str(family.out)]) == 0
    assert "20 tensors" in capsys.readouterr().out


@pytest.fixture(autouse=True)
def _signals_as_before():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_refusal_is_an_event_and_exit_code_two(family, capsys):
    (family.tuned["eu"].path / "model.safetensors").write_bytes(b"short")
    assert main([str(family.config({"method": "linear"})), str(family.out), "--json-lines"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["kind"]) == ("error", "CorruptShard")
    assert "eu/model.safetensors: 5 bytes" in event["message"]
    assert event["problems"] == [{"kind": "CorruptShard", "message": event["message"]}]
    assert family.leftovers() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outt": 1}, ["unknown keys ['outt']", "known are"]),
        ({"recipe": {"method": "tyes"}}, ["merge.json: recipe", "'tyes'"]),
        ({"tuned": {"eu": {"parent": None}}}, ["tuned.eu", "missing keys ['path']"]),
        ({"tuned": {"eu": "path"}}, ["tuned.eu", "'path'"]),
        ({"base": 3}, ["base: 3 is no path"]),
        ({"max_shard_bytes": 0}, ["max_shard_bytes is 0"]),
    ],
)
def test_a_merge_file_is_read_strictly(family, capsys, change, words):
    path = family.config({"method": "linear"})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert main([str(path), str(family.out)]) == 2
    told = capsys.readouterr().err
    for word in ["RecipeError", "merge.json", *words]:
        assert word in told
    assert family.leftovers() == []


def test_a_merge_file_that_is_no_json_is_refused(family, capsys):
    path = family.root / "merge.json"
    path.write_text("{")
    assert main([str(path), str(family.out)]) == 2
    assert main([str(family.root / "none.json"), str(family.out)]) == 2
    assert capsys.readouterr().err.count("cannot be read as JSON") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_leaves_nothing(family, number, code):
    # The merge stops itself after its first block, so that the signal surely comes in the middle.
    script = (
        "import os, signal, sys, tasks.engine.__main__ as command\n"
        "class Stop(command._Teller):\n"
        "    def __call__(self, progress):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "command._Teller = Stop\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    arguments = [str(family.config({"method": "linear"})), str(family.out), "--json-lines"]
    ended = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert ended.returncode == code
    assert family.leftovers() == []


def test_the_command_loads_nothing_that_a_merge_has_no_use_for(family):
    # scipy is what numba looks for kernels' BLAS in, pydantic what recipes of roles are read by.
    recipe = {"merge_method": "task_arithmetic", "base_model": str(family.base), "dtype": "bfloat16"}
    recipe["instruct"] = str(family.instruct)
    recipe["models"] = [{"model": str(family.instruct), "parameters": {"weight": 1}}]
    config = family.root / "plain.json"
    config.write_text(json.dumps(recipe))
    script = (
        "import atexit, gc, runpy, sys\n"
        "def tell():\n"
        "    loaded = {name.partition('.')[0] for name, module in sys.modules.items() if module is not None}\n"
        "    print(sorted(loaded & {'numba', 'scipy', 'pydantic', 'torch'}), gc.isenabled())\n"
        "atexit.register(tell)\n"
        "runpy.run_module('tasks.engine', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(config), str(family.out)], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "['numba'] True"
    assert family.out.is_dir()
