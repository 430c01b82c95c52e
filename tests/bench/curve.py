"""The curve of a language's weight on the demo family: make curve, or `python tests/bench/curve.py --language eu`.

For each w the linear merge, a = 1 / (1 + w) and b = w / (1 + w); task arithmetic, a = 1 and b = w; and the control of the
linear merge, its a without the language, b = 0. The control of task arithmetic is the instruct model itself. Models are
scored in this process by transformers, from weights rounded to bf16, with the family's own scorer
(infra/demo_family/score.py): no server, no gate. ``search`` is what a search sees of the same merge, without labels, on
the dev split; all other columns are the test split.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tokenizers import Tokenizer  # noqa: E402

from infra.demo_family.evalsets import Suite, read  # noqa: E402
from infra.demo_family.recipe import EOT_ID, FAMILY, IM_END_ID  # noqa: E402
from infra.demo_family.score import Scorer, Weights, combine, weights  # noqa: E402
from infra.demo_family.streams import chat_prompt  # noqa: E402
from tasks.domain.search import ANSWERS, TEXT, Asked, Heard, heard_of, worth  # noqa: E402

MODELS, DATA = ROOT / "infra/demo_family/models", ROOT / "tasks/harness/suites/data"
WEIGHTS = tuple(step / 4 for step in range(9))
ITEMS = 30
"""Texts, and questions of each language, that the search's columns are heard on."""
CHAT = ("en",)
"""In what the instruct models are asked what they keep; they speak Spanish too."""


class Point(NamedTuple):
    """One merge of the curve."""

    method: str
    w: float
    a: float
    b: float


def points(ws: tuple[float, ...]) -> Iterator[Point]:
    """Every merge that is measured; at w = 0 all three are the instruct model, which is measured once."""
    for w in ws:
        yield Point("task_arithmetic", w, 1.0, w)
        if w:
            yield Point("linear", w, 1 / (1 + w), w / (1 + w))
            yield Point("control", w, 1 / (1 + w), 0.0)


class Curve:
    """One language of the family, and the models that it is made of."""

    def __init__(self, language: str, instruct: str, items: int) -> None:
        self._language = language
        self._models: dict[str, Weights] = {
            role: weights(MODELS / FAMILY[role]) for role in ("base", language, instruct)
        }
        self._instruct = instruct
        folder = MODELS / FAMILY[instruct]
        self._scorer = Scorer(folder, folder / "tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._suite: Suite = {name: rows[:items] for name, rows in read(DATA).items()}
        self._heard: dict[str, Heard] = {}
        self._own = self._answers()

    def measured(self, role: str, tensors: Weights) -> dict[str, Any]:
        """What one model scores on test, and what a search hears of it on dev."""
        scores = self._scorer.score(tensors, self._suite, "test", names=(*CHAT, self._language))
        own = scores[self._language]
        found = {f"strict_{code}": round(scores[code]["chat"]["strict"], 4) for code in scores}
        found |= {"mc": round(own["mc"]["acc"], 4), "bits_per_byte": round(own["bpb"]["bits_per_byte"], 4)}
        self._heard[role] = self._hear()
        return found

    def rows(self, ws: tuple[float, ...]) -> Iterator[dict[str, Any]]:
        """The parents, then every point, with what it keeps of them."""
        instruct = self.measured("instruct", self._models[self._instruct])
        tuned = self.measured("tuned", self._models[self._language])
        yield {"method": "instruct parent", **instruct}
        yield {"method": "tuned parent", **tuned}
        gain = instruct["bits_per_byte"] - tuned["bits_per_byte"]
        spoken = sum(instruct[f"strict_{code}"] for code in CHAT)
        for point in points(ws):
            tensors = combine(
                self._models["base"],
                (point.a, self._models[self._instruct]),
                (point.b, self._models[self._language]),
            )
            found = self.measured("candidate", tensors)
            value = worth(self._heard["candidate"], self._heard["instruct"], dict(self._heard["tuned"].texts), 1.0)
            yield {
                **{
                    name: round(number, 4) if isinstance(number, float) else number
                    for name, number in point._asdict().items()
                },
                **found,
                "kept_instruct": round(sum(found[f"strict_{code}"] for code in CHAT) / spoken, 4),
                "kept_tuned": round((instruct["bits_per_byte"] - found["bits_per_byte"]) / gain, 4),
                "search": {name: round(number, 4) for name, number in value._asdict().items()},
            }

    def _answers(self) -> tuple[Asked, ...]:
        """The instruct model's own greedy answers to dev questions, as a search asks for them."""
        self._scorer.load(self._models[self._instruct])
        items = [item for code in CHAT for item in self._suite[f"{code}_chat.dev"][:ITEMS]]
        found = []
        for item, (text, stopped) in zip(items, self._scorer.answers(items), strict=True):
            prompt = chat_prompt(self._tokenizer, item["question"])
            said = [*self._tokenizer.encode(text).ids, *([IM_END_ID] if stopped else [])]
            found.append(Asked(text=text, tokens=(*prompt, *said), start=len(prompt)))
        return tuple(found)

    def _hear(self) -> Heard:
        texts = [row["text"] for row in self._suite[f"{self._language}_bpb.dev"]][:ITEMS]
        logs = self._scorer.log_likelihood([[EOT_ID]] * len(texts), [self._tokenizer.encode(t).ids for t in texts])
        answers = self._scorer.log_likelihood(
            [list(one.tokens[: one.start]) for one in self._own], [list(one.tokens[one.start :]) for one in self._own]
        )
        sets = {TEXT + self._language: tuple(Asked(text=text) for text in texts), ANSWERS + "en": self._own}
        bits = {TEXT + self._language: logs, ANSWERS + "en": answers}
        return heard_of({name: [-n / math.log(2) for n in nats] for name, nats in bits.items()}, sets, len(self._own))


def draw(rows: list[dict[str, Any]], language: str, out: Path) -> None:
    """What each merge keeps of both parents, over w."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "curve"  # the same figures, the same bytes
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.4), sharex=True, layout="constrained")
    start = next(row for row in rows if row["method"] == "task_arithmetic" and row["w"] == 0)
    looks = {
        "task_arithmetic": ("#0072b2", "o", "-"),
        "linear": ("#c65a00", "s", "-"),
        "control": ("#5b6270", "^", ":"),
    }
    told = {"task_arithmetic": "task arithmetic: a = 1, b = w", "linear": "linear: a = 1/(1+w), b = w/(1+w)"}
    told["control"] = "control: a = 1/(1+w), b = 0"
    shown = {
        "kept_instruct": "kept of the instruct parent\n(strict answers, en)",
        "kept_tuned": f"kept of the tuned parent's gain\n(bits per byte, {language})",
        f"strict_{language}": f"strict answers in {language}\n(share of questions)",
    }
    for panel, (key, title) in zip(panels, shown.items(), strict=True):
        for method, (colour, mark, line) in looks.items():
            own = [row for row in rows if row["method"] == method]
            own = own if own[0]["w"] == 0 else [start, *own]
            panel.plot(
                [r["w"] for r in own], [r[key] for r in own], line, color=colour, marker=mark, label=told[method]
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("w")
        panel.grid(color="#c6cad4", linewidth=0.5)
        panel.axvspan(1.5, 2.0, color="#a8326f", alpha=0.08)
    panels[1].set_ylim(bottom=-0.5)  # below, numbers alone: see the JSON
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
    )
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Measure, write the figures as JSON, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", default="eu", choices=["eu", "ca", "gl"])
    parser.add_argument("--instruct", default="v2", choices=["v1", "v2"])
    parser.add_argument("--items", type=int, default=1000, help="of each benchmark, the first ones; all by default")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="each w; 0 is always among them")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "tests/bench", help="folder of curve-<language>.json and .svg"
    )
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for row in Curve(options.language, options.instruct, options.items).rows(tuple(sorted({0.0, *options.weights}))):
        print(json.dumps(row), flush=True)
        rows.append(row)
    name = f"curve-{options.language}"
    told = {"language": options.language, "instruct": FAMILY[options.instruct], "items": options.items, "rows": rows}
    (options.out / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draw(rows, options.language, options.out / f"{name}.svg")
    print(
        f"{len(rows)} models in {time.monotonic() - began:.0f} s; {options.out / name}.json and .svg", file=sys.stderr
    )


if __name__ == "__main__":
    main()
