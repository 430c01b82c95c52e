"""What a served model is asked to see how it behaves: a few items of the gate's own benchmarks.

Chats are items kept for dev of the benchmarks that chat, so that a model is asked what its instruct parent was made to
answer; of a gate that has none, a few plain questions in its languages. The language of answers is told where the gate
says what it asks of it: on the continuations or chats of its ``in_language`` benchmarks.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tasks.domain.errors import InputError
from tasks.domain.gate import Check, Gate
from tasks.domain.lineage import fingerprint
from tasks.domain.models import Digest
from tasks.harness.suite import definition, plain, read_items

CHATS, TEXTS = 6, 16
"""Of each source. Six answers that all go wrong where the parent's do not are no accident (sign test, .016), and two of
sixteen in the language neither where a half is asked for (.002)."""
TEXT_TOKENS = 40
CHAT_TOKENS = 512
LEAST_IN_LANGUAGE = 0.8
"""Where the gate states no floor; the identifier has .96 and more of such texts right (tasks.harness.languages)."""


class Source(NamedTuple):
    """Prompts of one kind."""

    name: str
    """``eu_chat``, ``eu_text``, ``plain_eu``."""
    kind: Literal["chat", "text"]
    prompts: tuple[tuple[str, str], ...]
    """Id and text of each."""
    language: str = ""
    """Whose share is told; "" where the answers are none that a language can be told of."""
    least: float = 0.0

    @property
    def digest(self) -> Digest:
        """Of what is asked, how long an answer may be, and whether it is told in which language it is."""
        told = {"language": self.language} if self.kind == "chat" and self.language else {}  # of texts it always is
        return fingerprint(
            kind="examination",
            prompts=[list(one) for one in self.prompts],
            of=self.kind,
            tokens=CHAT_TOKENS if self.kind == "chat" else TEXT_TOKENS,
            version=1,
            **told,
        )

    @property
    def requests(self) -> int:
        """HTTP requests: chats go one by one, texts together."""
        return len(self.prompts) if self.kind == "chat" else 1


def sources_of(gate: Gate, languages: Sequence[str]) -> tuple[Source, ...]:
    """What a candidate for ``languages`` is asked under ``gate``, each source once."""
    told = {code: next((c for c in gate.checks if _tells(c, code)), None) for code in languages}
    chats = [name for name in gate.benchmarks if _chats(name)]
    found = [_source(name, "chat", [c for c in told.values() if c and c.benchmark == name]) for name in chats]
    found += [_source(c.benchmark, "text", [c]) for c in told.values() if c and plain(c.benchmark)]
    by_name = {one.name: one for one in reversed(found)}
    wanted = [code for code, check in told.items() if check is None]
    codes = dict.fromkeys(wanted if chats else [*languages, "en"])
    by_name |= {f"plain_{code}": _plain(code, code in wanted) for code in codes}
    return tuple(sorted(by_name.values()))


def _tells(check: Check, code: str) -> bool:
    return check.metric == "in_language" and code in (check.language, check.benchmark.partition("_")[0])


def _chats(benchmark: str) -> bool:
    known = definition(benchmark)
    return bool(
        known["output_type"] == "generate_until"
        and not plain(benchmark)
        and str(known["doc_to_text"]).isidentifier()
        and not known.get("num_fewshot")
    )


def _source(benchmark: str, kind: Literal["chat", "text"], checks: Sequence[Check]) -> Source:
    known = definition(benchmark)
    data, column = str(known["dataset_kwargs"].get("data") or benchmark), str(known["doc_to_text"])
    try:
        # Texts as the gate asks them: its floor was set on those.
        items = read_items(data, split="test" if kind == "text" else "dev")
    except InputError:  # a benchmark that keeps none aside
        items = read_items(data)
    asked = [item for item in items if item.get("language", "-")] or items
    prompts = tuple((str(item["id"]), str(item[column])) for item in asked[: CHATS if kind == "chat" else TEXTS])
    code = next((c.language or c.benchmark.partition("_")[0] for c in checks), "")
    floors = [c.floor for c in checks if c.floor is not None]
    return Source(data, kind, prompts, code, min(floors, default=LEAST_IN_LANGUAGE) if code else 0.0)


def _plain(code: str, tells: bool) -> Source:
    rows = QUESTIONS.get(code, QUESTIONS["en"])
    tells = tells and code in QUESTIONS
    prompts = tuple((f"{code}-{number}", text) for number, text in enumerate(rows, 1))
    return Source(f"plain_{code}", "chat", prompts, code if tells else "", LEAST_IN_LANGUAGE if tells else 0.0)


QUESTIONS = {
    "en": (
        "Describe in two sentences what a library is for.",
        "Explain in two sentences why it rains.",
        "Tell me in two sentences how bread is made.",
        "Write two sentences about the sea in winter.",
        "Give me two reasons to learn a language.",
        "Write a short message to thank a neighbour.",
    ),
    "es": (
        "Describe en dos frases para qué sirve una biblioteca.",
        "Explica en dos frases por qué llueve.",
        "Cuéntame en dos frases cómo se hace el pan.",
        "Escribe dos frases sobre el mar en invierno.",
        "Dame dos razones para aprender un idioma.",
        "Escribe un mensaje corto para dar las gracias a un vecino.",
    ),
    "eu": (
        "Azaldu bi esalditan zertarako den liburutegi bat.",
        "Azaldu bi esalditan zergatik egiten duen euria.",
        "Esadazu bi esalditan nola egiten den ogia.",
        "Idatzi bi esaldi itsasoari buruz neguan.",
        "Eman bi arrazoi hizkuntza bat ikasteko.",
        "Idatzi mezu labur bat bizilagun bati eskerrak emateko.",
    ),
    "ca": (
        "Descriu en dues frases per a què serveix una biblioteca.",
        "Explica en dues frases per què plou.",
        "Explica'm en dues frases com es fa el pa.",
        "Escriu dues frases sobre el mar a l'hivern.",
        "Dona'm dues raons per aprendre una llengua.",
        "Escriu un missatge curt per donar les gràcies a un veí.",
    ),
    "gl": (
        "Describe en dúas frases para que serve unha biblioteca.",
        "Explica en dúas frases por que chove.",
        "Cóntame en dúas frases como se fai o pan.",
        "Escribe dúas frases sobre o mar no inverno.",
        "Dáme dúas razóns para aprender unha lingua.",
        "Escribe unha mensaxe curta para darlle as grazas a un veciño.",
    ),
    "pt": (
        "Descreve em duas frases para que serve uma biblioteca.",
        "Explica em duas frases porque é que chove.",
        "Conta-me em duas frases como se faz o pão.",
        "Escreve duas frases sobre o mar no inverno.",
        "Dá-me duas razões para aprender uma língua.",
        "Escreve uma mensagem curta para agradecer a um vizinho.",
    ),
}
"""Asked where a gate has no chats of its own. Written for this repository, not reviewed by native speakers."""
