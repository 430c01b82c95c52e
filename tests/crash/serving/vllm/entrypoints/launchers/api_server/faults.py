"""What an instance that stands for vLLM does wrong, as a file beside its socket says: `<name>.fault.json`.

`<name>` is the instance's, so the file may be there before its process is, and every process of that name obeys it. It
is looked at before each answer; what belongs to loading is looked at when the process starts.

    while it loads
        crash       it ends with this sentence, as vLLM does with a config that it cannot use
        slow        it takes so many seconds longer
        wrong       it loads other weights: its text carries these twelve digits, its log-likelihoods are others
    while it answers
        abort       as a draining vLLM: 200, empty, finish_reason abort (vllm#57082)
        hang        a stream is silent after its first piece, and a whole answer does not come, while this is so
        logprobs    false: answers come without the log-likelihoods that were asked for
        empty       a good answer without any text
        foreign     text in another language
        late        so many seconds before the first byte
        status      this error
        engine      "dead": its engine is killed; /health answers 503 and every request 500
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Faults:
    """The file of one instance."""

    def __init__(self, socket: Path) -> None:
        self.path = socket.with_name(f"{socket.name.rsplit('.', 2)[0]}.fault.json")
        self._seen = -1
        self._told: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """What is wrong at this moment; nothing when there is no file."""
        try:
            seen = self.path.stat().st_mtime_ns
            if seen != self._seen:
                self._told, self._seen = json.loads(self.path.read_text(encoding="utf-8")), seen
        except FileNotFoundError:
            self._told, self._seen = {}, -1
        return self._told

    def while_loading(self) -> str:
        """Crash, or take long, as told; the digits of the weights that are loaded instead of the right ones, or ""."""
        told = self.now()
        time.sleep(float(told.get("slow", 0)))
        if "crash" in told:
            sys.exit(f"ValueError: {told['crash']}")
        return str(told.get("wrong", ""))
