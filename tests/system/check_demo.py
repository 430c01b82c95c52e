"""Checks a demo that is up, and trusts nothing that it wrote.

    .venv/bin/python tests/system/check_demo.py [--home .empelt/demo] [--only "v2 x eu"]

Asked are, of every job that the report tells of: the kernel (which files has the serving process mapped, and what is in
them), numpy (are sampled elements the merge that the report claims), the gateway (who answers, and what; and how many of
the benchmark's own questions it gets right), and Prefect's API (was the job made by a run of the schedule after the push,
did it end as told, are the scores those of the gate's table). Of the releases that were to be refused: that no run was
made, no channel moved and nothing answers for them. Then the report must agree with all of that. Exit 1, with every
disagreement, if it does not.

Only numpy, safetensors' format and HTTP are used; nothing of ours is imported.
"""

import argparse
import hashlib
import json
import math
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

MATTERS = ("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
MATTERS_START = ("tokenizer", "chat_template", "vocab.")
DATA = Path(__file__).resolve().parents[2] / "tasks" / "harness" / "suites" / "data"
STATES = {"published": "Published", "rejected": "Rejected", "kept": "Kept", "held": "Undecided"}
Job = dict[str, Any]
ANY_BUT_SERVED = {"kept", "rejected", "held"}
# How the story must end, whatever the demo says about itself: family -> job -> outcomes that are let through.
EXPECTED: dict[str, dict[str, set[str]]] = {
    "llama-tiny": {
        "llama-tiny-instruct-v1 x eu": {"published"},
        "llama-tiny-instruct-v2 x eu": {"published"},
        "llama-tiny-instruct-v2 x gl": {"published"},
        "llama-tiny-instruct-v2 x iberian": {"rejected"},  # four deltas at once are too much for so small a model
        "llama-tiny-instruct-v5 x eu": {"rejected"},
        "llama-tiny-instruct-v5 x gl": {"rejected"},
        "llama-tiny-instruct-v5 x iberian": {"rejected"},
        "llama-tiny-instruct-v4 x eu": {"kept"},
        "llama-tiny-instruct-v4 x gl": ANY_BUT_SERVED,
        "llama-tiny-instruct-v4 x iberian": ANY_BUT_SERVED,
    },
    "qwen3-tiny": {"qwen3-tiny-instruct-v1 x eu": {"published"}, "qwen3-tiny-instruct-v2 x eu": {"published"}},
}
REFUSED = {"llama-tiny": "llama-tiny-instruct-v3"}
BAD = "llama-tiny-instruct-v5"
LONGEST_SECONDS = 900


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[Any, dict[str, str]]:
    """JSON from a server, and the answer's headers in lower case; again while Prefect is too busy (503)."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    for patience in range(30, -1, -1):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response), {name.lower(): value for name, value in response.headers.items()}
        except urllib.error.HTTPError as refusal:
            if refusal.code != 503 or not patience:
                raise
            time.sleep(1)
    raise AssertionError("unreachable")


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


TOKEN_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


def rows_of_the_instruct_model(folder: Path, recipe: dict[str, Any]) -> tuple[set[int], int]:
    """Rows that are not merged: of special tokens that the chat template writes, and behind the last token. And their width."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if recipe.get("special_rows") == "merge":
        return set(), config["hidden_size"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    written = {named.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token") if name in template}
    special = [entry for entry in tokenizer["added_tokens"] if entry["special"]]
    chat = {entry["id"] for entry in special if entry["content"] in template or entry["content"] in written}
    last = max([*tokenizer["model"]["vocab"].values(), *(entry["id"] for entry in tokenizer["added_tokens"])])
    return chat | set(range(last + 1, config["vocab_size"])), config["hidden_size"]


def check_merge(store: Path, artifact: str, lineage: dict[str, Any], count: int = 1000) -> list[str]:
    """Sampled elements of the merged weights, recomputed from the parents."""
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
    kept, width = rows_of_the_instruct_model(store / "artifacts" / digests["instruct"], recipe)
    wrong, far, moved = 0, 0, 0
    for name in rng.choice(names, size=count, p=sizes / sizes.sum()):
        index = int(rng.integers(served.where[name][2]))
        base = np.float64(parts["base"].values(name)[index])
        value = base + a * (np.float64(parts["instruct"].values(name)[index]) - base)
        for code, weight in b.items():
            parent = parts.get(f"parent:{code}", parts["base"])
            value += weight * (
                np.float64(parts[f"tuned:{code}"].values(name)[index]) - np.float64(parent.values(name)[index])
            )
        expected, found = int(rounded(np.array([value]))[0]), int(served.raw(name)[index])
        if name in TOKEN_TENSORS and index // width in kept:
            expected = int(parts["instruct"].raw(name)[index])
        # float32 sums may fall on the other side of a tie: one unit in the last place is rounding, two are not.
        wrong += expected != found
        far += abs(expected - found) > 1
        moved += found != int(parts["instruct"].raw(name)[index])
    problems = []
    if far or wrong > count / 100:
        problems.append(
            f"of {count} sampled elements {wrong} are not the recipe's, {far} by more than one unit in the last place"
        )
    if moved < count / 10:
        problems.append(
            f"only {moved} of {count} sampled elements differ from the instruct parent: nothing was grafted"
        )
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


def chat(report: dict[str, Any], model: str, question: str) -> tuple[str, str, dict[str, str]]:
    """What a model of the gateway says, why it stopped, and the answer's headers."""
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 40}
    answer, headers = ask(f"{report['endpoint']}/chat/completions", body)
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], headers


def check_gateway(report: dict[str, Any], job: Job) -> list[str]:
    """The endpoint answers with this artifact at this generation, and says now what the report says that it said."""
    told = report["channel_answers"].get(job["target"], {})
    said, _, headers = chat(report, job["channel"], told.get("question", "?"))
    problems = []
    for name, expected in (("x-empelt-artifact", job["artifact"]), ("x-empelt-generation", str(job["generation"]))):
        if headers.get(name) != expected:
            problems.append(f"the gateway answers with {name}: {headers.get(name)}, the report says {expected}")
    if told and said != told["after"]:
        problems.append(f"the endpoint answers {said!r}, the report says {told['after']!r}")
    models, _ = ask(f"{report['endpoint']}/models")
    if job["channel"] not in [m["id"] for m in models["data"]]:
        problems.append(f"/v1/models does not list {job['channel']}")
    return problems


def check_chat_score(report: dict[str, Any], job: Job, count: int = 40) -> list[str]:
    """Sampled questions of each chat benchmark, asked now: as many right as the reported score makes likely."""
    problems = []
    for name, score in job["scores"].items():
        benchmark, metric = name.split("/")
        path = DATA / f"{benchmark}.test.jsonl"
        if metric != "strict" or not path.exists():
            continue
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        chosen = np.random.default_rng(int(job["artifact"][:8], 16)).choice(len(items), count, replace=False)
        right = 0
        for index in chosen:
            said, stopped, _ = chat(report, job["channel"], items[index]["question"])
            right += said == json.dumps({"answer": items[index]["answer"]}, ensure_ascii=False) and stopped == "stop"
        # Four standard errors of so small a sample, and one answer for what batching changes.
        spread = 4 * math.sqrt(max(score["value"] * (1 - score["value"]), 0.01) / count) + 1 / count
        if abs(right / count - score["value"]) > spread:
            problems.append(
                f"{benchmark}: {right} of {count} answers are right, the report's score is {score['value']:.3f}"
            )
    return problems


def check_prefect(report: dict[str, Any], job: Job) -> list[str]:
    """A run of the schedule after the push dispatched the job; it ended as told; its gate table agrees."""
    api, problems = f"{report['ui']}/api", []
    run, _ = ask(f"{api}/flow_runs/{job['flow_run']}")
    if run["state"]["name"] != STATES[job["outcome"]] or run["state"]["type"] != "COMPLETED":
        problems.append(
            f"the job's run ended as {run['state']['name']} ({run['state']['type']}), not as {STATES[job['outcome']]}"
        )
    if job["release_revision"] not in str(run["parameters"]["release"]):
        problems.append("the job's run was for another revision than the report says")
    if job["pushed_at"]:
        problems += check_dispatch(report, job, run)
    tables, _ = ask(f"{api}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [job["flow_run"]]}}, "limit": 50})
    gate = [json.loads(t["data"]) for t in tables if (t["key"] or "").startswith("gate-")]
    if len(gate) != 1:
        return [*problems, f"{len(gate)} gate tables hang on the job's run; expected one"]
    return problems + check_table(job, gate[0])


def check_dispatch(report: dict[str, Any], job: Job, run: dict[str, Any]) -> list[str]:
    """The run was created after the push, by a run of the schedule that ended after it."""
    pushed, problems = datetime.fromisoformat(job["pushed_at"]), []
    if datetime.fromisoformat(run["created"]) < pushed:
        problems.append(f"the job's run was created at {run['created']}, before the push at {pushed}")
    runs, _ = ask(
        f"{report['ui']}/api/flow_runs/filter",
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
        and run["name"] in r["state"]["message"]
    ]
    if not dispatched:
        problems.append(f"no run of the schedule that ended after the push dispatched {run['name']!r}")
    return problems


def check_table(job: Job, gate: list[dict[str, Any]]) -> list[str]:
    """The report's rows, scores and verdict are those of Prefect's table."""
    problems = []
    shown = {row["benchmark"].rstrip(" *") + "/" + row["metric"]: row for row in gate if row.get("metric")}
    told = {row["benchmark"].rstrip(" *") + "/" + row["metric"]: row for row in job["verdict"]["rows"]}
    for name in sorted(shown.keys() | told.keys()):
        for column in ("score", "limit", "verdict"):
            ours, theirs = told.get(name, {}).get(column), shown.get(name, {}).get(column)
            if ours != theirs:
                problems.append(f"{name}: the report's {column} is {ours!r}, Prefect's table says {theirs!r}")
    verdict = next((row["verdict"] for row in gate if row["benchmark"] == "VERDICT"), None)
    wanted = {"published": "PASSED", "kept": "PASSED", "rejected": "REJECTED", "held": "UNDECIDED"}[job["outcome"]]
    if verdict != job["verdict"]["outcome"].upper() or verdict != wanted:
        problems.append(
            f"the job ended {job['outcome']} by verdict {job['verdict']['outcome']}, Prefect's table says {verdict}"
        )
    for name, score in job["scores"].items():
        row = shown.get(name)
        if row and row["score"] != f"{score['value']:.3f}\u00a0±\u00a0{score['stderr']:.3f}":
            problems.append(f"{name}: the report's score is {score['value']:.3f}, Prefect's table says {row['score']}")
    return problems


def check_not_served(report: dict[str, Any], job: Job) -> list[str]:
    """Nothing answers with the artifact of a job that was not published, unless another job published the same one."""
    published = {j["artifact"] for j in report["jobs"] if j["outcome"] == "published"}
    models, _ = ask(f"{report['endpoint']}/models")
    problems = [
        f"channel {m['id']} serves {job['artifact'][:12]}, which was {job['outcome']}"
        for m in models["data"]
        if m.get("root") == job["artifact"] and job["artifact"] not in published
    ]
    lowest = [row for row in job["verdict"]["rows"] if row["verdict"] == "FAIL"]
    if job["outcome"] == "rejected" and not lowest:
        problems.append("it was rejected, and no row of its gate failed")
    return problems


def check_refused(report: dict[str, Any]) -> list[str]:
    """The release that its pre-flight refused: the Hub has it, and no run was ever made for it."""
    refusal = report["refusal"]
    runs, _ = ask(
        f"{report['ui']}/api/flow_runs/filter",
        {"flows": {"name": {"any_": ["remerge-release"]}}, "flow_runs": {"name": {"like_": refusal["release"]}}},
    )
    problems = [f"a run {run['name']!r} was made for the release that was to be refused" for run in runs]
    if refusal["release"] not in refusal["reason"] or "rchitecture" not in refusal["reason"]:
        problems.append(f"the reason does not name release and architecture: {refusal['reason']!r}")
    return problems


def check_story(report: dict[str, Any]) -> list[str]:
    """Every release came to the end that it must come to, in time; the bad one by its answers."""
    expected, found = EXPECTED[report["family"]], {job["name"]: job for job in report["jobs"]}
    problems = [f"no job {name!r} came to its end" for name in expected if name not in found]
    for name, job in found.items():
        allowed = expected.get(name, set())
        if job["outcome"] not in allowed:
            problems.append(
                f"{name} ended {job['outcome']}; {' or '.join(sorted(allowed)) or 'no such job'} was expected"
            )
        failed = {row["metric"] for row in job["verdict"]["rows"] if row["verdict"] == "FAIL"}
        if name.startswith(BAD) and "strict" not in failed:
            problems.append(
                f"{name}: no strict benchmark failed, only {sorted(failed)}: it was not refused for its chat"
            )
    if report["refusal"].get("release") != REFUSED.get(report["family"]):
        problems.append(f"refused was {report['refusal'].get('release')}, expected {REFUSED.get(report['family'])}")
    if report["seconds"] > LONGEST_SECONDS:
        problems.append(f"the demo took {report['seconds']} s; {LONGEST_SECONDS} at most")
    return problems


def checks_of(report: dict[str, Any], store: Path) -> dict[str, Callable[[], list[str]]]:
    """Every check, by the line that is printed for it."""
    latest = {job["channel"]: job for job in report["jobs"] if job["outcome"] == "published"}
    checks: dict[str, Callable[[], list[str]]] = {"the story": lambda: check_story(report)}
    for job in report["jobs"]:
        who = f"{job['name']} ({job['outcome']})"
        serves = latest.get(job["channel"]) is job
        count = 1000 if serves else 300
        checks[f"{who}: Prefect's record"] = lambda job=job: check_prefect(report, job)  # type: ignore[misc]
        checks[f"{who}: {count} elements of the merge"] = lambda job=job, count=count: check_merge(  # type: ignore[misc]
            store, job["artifact"], job["lineage"], count
        )
        if serves:
            checks[f"{who}: files mapped by the serving process"] = lambda job=job: check_mapped(  # type: ignore[misc]
                store, job["artifact"]
            )
            checks[f"{who}: the gateway"] = lambda job=job: check_gateway(report, job)  # type: ignore[misc]
            checks[f"{who}: chat scores, asked again"] = lambda job=job: check_chat_score(report, job)
        elif job["outcome"] != "published":
            checks[f"{who}: not served"] = lambda job=job: check_not_served(report, job)  # type: ignore[misc]
    if report["refusal"]:
        checks[f"{report['refusal']['release']} (refused)"] = lambda: check_refused(report)
    checks["the report's top is its own job"] = lambda: check_top(report)
    return checks


def check_top(report: dict[str, Any]) -> list[str]:
    """What stands at the report's top is the job of that name, word for word."""
    job = next((j for j in report["jobs"] if j["name"] == report["name"]), {})
    return [
        f"{key}: {report.get(key)!r}, but the job says {value!r}"
        for key, value in job.items()
        if report.get(key) != value
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".empelt/demo"))
    parser.add_argument("--only", default="", help="only the checks whose line holds this")
    chosen = parser.parse_args()
    home = chosen.home
    report = json.loads((home / "report.json").read_text(encoding="utf-8"))
    failed = False
    for name, check in checks_of(report, (home / "store").resolve()).items():
        if chosen.only not in name:
            continue
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
