"""Checks a demo that is up, and trusts nothing that it wrote.

    .venv/bin/python tests/system/check_demo.py [--home .empelt/demo]

Asked are: the kernel (which files has the serving process mapped, and what is in them), numpy (are 1,000 sampled elements
the merge that the report claims), the gateway (who answers, and what), and Prefect's API (was the job made by a run of the
schedule after the push). Then the report must agree with all of that. Exit 1, with every disagreement, if it does not.

Only numpy, safetensors' format and HTTP are used; nothing of ours is imported.
"""

import argparse
import hashlib
import json
import struct
import sys
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

MATTERS = ("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
MATTERS_START = ("tokenizer", "chat_template", "vocab.")


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[Any, dict[str, str]]:
    """JSON from a server, and the answer's headers in lower case."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), {name.lower(): value for name, value in response.headers.items()}


def digest_of(folder: Path) -> str:
    """Content digest, from the definition: sha256 over sorted (path, sha256) of the files that matter."""
    lines = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if (
            name.endswith((".safetensors", ".safetensors.index.json"))
            or name in MATTERS
            or name.startswith(MATTERS_START)
        ):
            lines.append(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Weights:
    """bf16 tensors of one model folder, read with numpy alone."""

    def __init__(self, folder: Path) -> None:
        self.where: dict[str, tuple[Path, int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    assert entry["dtype"] == "BF16", f"{path}: {name} is {entry['dtype']}"
                    start, end = entry["data_offsets"]
                    self.where[name] = (path, 8 + length + start, (end - start) // 2)

    def raw(self, name: str) -> np.ndarray:
        path, offset, count = self.where[name]
        return np.fromfile(path, dtype="<u2", count=count, offset=offset)

    def values(self, name: str) -> np.ndarray:
        return (self.raw(name).astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 -> bf16 bits, nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def check_merge(store: Path, artifact: str, lineage: dict[str, Any]) -> list[str]:
    """1,000 sampled elements of the served weights, recomputed from the parents."""
    digests = {i["role"]: i["digest"] for i in lineage["ingredients"]}
    parts = {role: Weights(store / "artifacts" / digest) for role, digest in digests.items()}
    served, recipe = Weights(store / "artifacts" / artifact), lineage["recipe"]
    names = sorted(served.where)
    if names != sorted(parts["instruct"].where):
        return ["the tensors of the artifact are not those of the instruct parent"]
    a, w = recipe["instruct_weight"], recipe["tuned_weight"]
    languages = [role.split(":")[1] for role in digests if role.startswith("tuned:")]
    b = {code: (w[code] if isinstance(w, dict) else w) for code in languages}
    if recipe["method"] == "linear":
        total = a + sum(b.values())
        a, b = a / total, {code: weight / total for code, weight in b.items()}
    rng = np.random.default_rng(int(artifact[:8], 16))  # another artifact, other samples
    sizes = np.array([served.where[name][2] for name in names], dtype=np.float64)
    wrong, far, moved = 0, 0, 0
    for name in rng.choice(names, size=1000, p=sizes / sizes.sum()):
        index = int(rng.integers(served.where[name][2]))
        base = np.float64(parts["base"].values(name)[index])
        value = base + a * (np.float64(parts["instruct"].values(name)[index]) - base)
        for code, weight in b.items():
            parent = parts.get(f"parent:{code}", parts["base"])
            value += weight * (
                np.float64(parts[f"tuned:{code}"].values(name)[index]) - np.float64(parent.values(name)[index])
            )
        expected, found = int(rounded(np.array([value]))[0]), int(served.raw(name)[index])
        # float32 sums may fall on the other side of a tie: one unit in the last place is rounding, two are not.
        wrong += expected != found
        far += abs(expected - found) > 1
        moved += found != int(parts["instruct"].raw(name)[index])
    problems = []
    if far or wrong > 10:
        problems.append(
            f"of 1000 sampled elements {wrong} are not the recipe's, {far} by more than one unit in the last place"
        )
    if moved < 100:
        problems.append(f"only {moved} of 1000 sampled elements differ from the instruct parent: nothing was grafted")
    return problems


def check_mapped(store: Path, artifact: str) -> list[str]:
    """The process that serves the artifact has mapped its weights, and they hash to what the digest says."""
    folder = store / "artifacts" / artifact
    wanted = {str(path) for path in folder.glob("*.safetensors")}
    problems = [] if digest_of(folder) == artifact else [f"{folder} hashes to {digest_of(folder)}: it was altered"]
    serving = [pid for pid in Path("/proc").glob("[0-9]*") if wanted & mapped_files(pid)]
    if not serving:
        return [*problems, f"no process has mapped {sorted(wanted)}"]
    for pid in serving:
        for path in wanted & mapped_files(pid):
            # Through /proc/<pid>/map_files the very bytes that this process sees, even if the path was replaced since.
            regions = [line.split()[0] for line in (pid / "maps").read_text().splitlines() if line.endswith(path)]
            through = pid / "map_files" / regions[0]
            if hashlib.sha256(through.read_bytes()).digest() != hashlib.sha256(Path(path).read_bytes()).digest():
                problems.append(f"process {pid.name} has mapped other bytes than {path} holds now")
    return problems


def mapped_files(pid: Path) -> set[str]:
    """Paths of the files that a process has mapped; nothing for one that has ended or is not ours."""
    try:
        return {line.split(None, 5)[5] for line in (pid / "maps").read_text().splitlines() if line.count("/")}
    except (FileNotFoundError, ProcessLookupError, PermissionError, IndexError):
        return set()


def check_gateway(report: dict[str, Any]) -> list[str]:
    """The endpoint answers with this artifact at this generation, and says now what the report says that it said."""
    question = report["answers"]["question"]
    body = {
        "model": report["channel"],
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 40,
    }
    answer, headers = ask(f"{report['endpoint']}/chat/completions", body)
    said = answer["choices"][0]["message"]["content"]
    problems = []
    for name, expected in (
        ("x-empelt-artifact", report["artifact"]),
        ("x-empelt-generation", str(report["generation"])),
    ):
        if headers.get(name) != expected:
            problems.append(f"the gateway answers with {name}: {headers.get(name)}, the report says {expected}")
    if said != report["answers"]["after"]:
        problems.append(f"the endpoint answers {said!r}, the report says {report['answers']['after']!r}")
    models, _ = ask(f"{report['endpoint']}/models")
    if report["channel"] not in [m["id"] for m in models["data"]]:
        problems.append(f"/v1/models does not list {report['channel']}")
    return problems


def check_prefect(report: dict[str, Any]) -> list[str]:
    """A run of the schedule after the push dispatched the job; the job completed as Published; its artifact agrees."""
    api, problems = f"{report['ui']}/api", []
    pushed = datetime.fromisoformat(report["pushed_at"])
    job, _ = ask(f"{api}/flow_runs/{report['flow_run']}")
    if job["state"]["name"] != "Published" or job["state"]["type"] != "COMPLETED":
        problems.append(f"the job's run ended as {job['state']['name']} ({job['state']['type']}), not as Published")
    if datetime.fromisoformat(job["created"]) < pushed:
        problems.append(f"the job's run was created at {job['created']}, before the push at {pushed}")
    if job["parameters"]["release"]["revision"] != report["release_revision"]:
        problems.append("the job's run was for another revision than the report says")
    runs, _ = ask(
        f"{api}/flow_runs/filter",
        {
            "flows": {"name": {"any_": ["watch-hub"]}},
            "flow_runs": {"state": {"name": {"any_": ["Dispatched"]}}},
            "limit": 200,
        },
    )
    dispatched = [
        r
        for r in runs
        if r["auto_scheduled"]
        # A run may be under way while the push lands, and see it: what counts is that it dispatched after the push.
        and datetime.fromisoformat(r["end_time"]) >= pushed
        and job["name"] in r["state"]["message"]
    ]
    if not dispatched:
        problems.append(f"no run of the schedule that ended after the push dispatched {job['name']!r}")
    tables, _ = ask(
        f"{api}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [report["flow_run"]]}}, "limit": 50}
    )
    gate = [json.loads(t["data"]) for t in tables if (t["key"] or "").startswith("gate-")]
    if len(gate) != 1:
        return [*problems, f"{len(gate)} gate tables hang on the job's run; expected one"]
    shown = {row["benchmark"].rstrip(" *") + "/" + row["metric"]: row for row in gate[0] if row.get("metric")}
    told = {row["benchmark"].rstrip(" *") + "/" + row["metric"]: row for row in report["verdict"]["rows"]}
    for name in sorted(shown.keys() | told.keys()):
        for column in ("score", "limit", "verdict"):
            ours, theirs = told.get(name, {}).get(column), shown.get(name, {}).get(column)
            if ours != theirs:
                problems.append(f"{name}: the report's {column} is {ours!r}, Prefect's table says {theirs!r}")
    verdict = next((row["verdict"] for row in gate[0] if row["benchmark"] == "VERDICT"), None)
    if verdict != report["verdict"]["outcome"].upper() or verdict != "PASSED":
        problems.append(f"the report's verdict is {report['verdict']['outcome']}, Prefect's table says {verdict}")
    for name, score in report["scores"].items():
        row = shown.get(name)
        if row and row["score"] != f"{score['value']:.3f}\u00a0±\u00a0{score['stderr']:.3f}":
            problems.append(f"{name}: the report's score is {score['value']:.3f}, Prefect's table says {row['score']}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".empelt/demo"))
    home = parser.parse_args().home
    report = json.loads((home / "report.json").read_text(encoding="utf-8"))
    store = (home / "store").resolve()
    checks = {
        "files mapped by the serving process": lambda: check_mapped(store, report["artifact"]),
        "1,000 elements of the merge": lambda: check_merge(store, report["artifact"], report["lineage"]),
        "the gateway": lambda: check_gateway(report),
        "Prefect's record": lambda: check_prefect(report),
    }
    failed = False
    for name, check in checks.items():
        try:
            problems = check()
        except (
            OSError,
            ValueError,
            LookupError,
            AssertionError,
        ) as error:  # no answer, or not what it should look like
            problems = [f"{type(error).__name__}: {error}"]
        failed |= bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} {name}")
        for problem in problems:
            print(f"       {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
