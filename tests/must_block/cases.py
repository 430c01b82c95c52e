"""What must be blocked, and why it must be; and the two that must pass.

A case is right if it ends as it says, and one of the reasons that the gate gives is the reason for which the model is
wrong: a broken model that is refused for a missing file proves nothing.
"""

import re
from typing import Literal, NamedTuple

How = Literal["alone", "beside itself", "without logprobs", "missing benchmark"]

NO_FORMAT = r"^(\w\w_chat(_short)?: 0\.\d+ is below the floor|Examined, (endless|leaks|loops):)"
"""Chats are not answered as the instruct parent answers them: another format, or no end."""


class Case(NamedTuple):
    """One model, and how it is judged."""

    name: str
    outcome: str
    """``passed``, ``rejected``, or ``broken``: the run itself cannot be judged, which passes nobody either."""
    reason: str
    """A regular expression that one of the reasons must match."""
    model: str = ""
    """Whose model it is, if not its own: a key of ``fixtures.MAKERS``."""
    how: How = "alone"
    clear: bool = True
    """Whether little must be enough to see it; what passes has to be asked everything."""

    @property
    def blocks(self) -> bool:
        """Whether it must not be published."""
        return self.outcome != "passed"

    @property
    def maker(self) -> str:
        """The key of ``fixtures.MAKERS``."""
        return self.model or self.name

    def explains(self, reasons: list[str]) -> str:
        """The first reason that is the expected one; "" if none is."""
        return next((one for one in reasons if re.search(self.reason, one)), "")


CASES: tuple[Case, ...] = (
    Case("good", "passed", r"^All \d+ (gated )?checks of gate must-block passed", clear=False),
    Case("A/A", "passed", r"^Not better than live \w+ on any critical slice", "good", "beside itself", clear=False),
    Case("NaN layer", "rejected", r"^Examined, norms: model\.layers\.1\.self_attn\.o_proj\.weight: .*(NaN|nan)"),
    Case("shuffled layers", "rejected", r"^Examined, norms: model\.layers\.\d\.[\w.]+: norm [\d.]+, its parents'"),
    Case("base in the chat slice", "rejected", NO_FORMAT),
    Case(
        "instruct parent in the language slice",
        "rejected",
        r"^eu_(chat: 0\.\d+ is below the floor|mc: .*given up|mc: .*less than the 75%|bpb: .*less than the 75%)",
    ),
    Case("tuned base in the chat slice", "rejected", NO_FORMAT),
    Case("plain average", "rejected", NO_FORMAT),
    Case("counted twice", "rejected", r"^(eu_bpb: .*keeps|es_chat_short: .*(drop of|allowed drop|given up))"),
    Case("TIES at density .5", "rejected", NO_FORMAT),
    Case("always A", "rejected", r"^Examined, (loops|endless):"),
    Case("empty answers", "rejected", r"^Examined, empty:"),
    Case("wrong language", "rejected", r"^(Examined, language:eu:|eu_(chat|text|mc|bpb): )"),
    Case("endless generation", "rejected", r"^Examined, (endless|loops):"),
    Case("missing benchmark", "broken", r"eu_belebele", "good", "missing benchmark"),
    Case("server without logprobs", "broken", r"log-?(likelihoods|prob)", "good", "without logprobs"),
    Case("tokenizer off by one", "rejected", r"^Examined, tokenizer: tokenizer\.json: \d+ of \d+ tokens are not"),
)
