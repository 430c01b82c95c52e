"""What happens to the installation while it is asked, one after the other."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tasks.domain.errors import EndpointUnavailable, ModelRefused
from tasks.domain.models import Artifact, ModelRef
from tests.soak.host import CHANNEL, ROOT, Host
from tests.soak.records import Event

MODELS = ROOT / "infra" / "demo_family" / "models"
OWNER = "soak"
DEADLINE_SECONDS = 240.0


class Play:
    """Artifacts, and the events in their order. An event that fails is written down and the next one comes."""

    def __init__(self, host: Host, *, pause_seconds: float) -> None:
        """``pause_seconds`` of load before each event."""
        self.host = host
        self.pause_seconds = pause_seconds
        self.events: list[Event] = []
        self.releases: dict[str, str] = {}
        self._refs: dict[str, ModelRef] = {}
        self._made = 0

    def prepare(self) -> None:
        """The artifacts; the first one is made live."""
        self.first = self._artifact("llama-tiny-instruct-v1")
        self.good = self._artifact("llama-tiny-instruct-v2")
        self.crashing = self._artifact("llama-tiny-instruct-v2", breaks=True)
        self.changed = self._artifact("llama-tiny-instruct-v1")
        self._promote(self.first)

    def run(self) -> None:
        """Every event."""
        self._event("a promotion", lambda: self._promote(self.good), switches=1)
        self._event("a roll-back, warm", self._roll_back, switches=1)
        self._event("a failing start", lambda: self._refuse(self.crashing, "ended with code"), refused=self.crashing)
        self._event("a failed verification", self._change_and_refuse, refused=self.changed)
        self._event("agent SIGKILL", self.host.kill_agent)
        self._event("a promotion, again", lambda: self._promote(self.good), switches=1)
        self._event("gateway restart", self.host.restart_gateway)
        self._event(
            "instance SIGKILL", lambda: self.host.kill_instance(self.good.digest), switches=None, killed=self.good
        )
        self._event("a roll-back", self._roll_back, switches=1)

    def _event(
        self,
        name: str,
        act: Callable[[], float],
        *,
        switches: int | None = 0,
        killed: Artifact | None = None,
        refused: Artifact | None = None,
        may_answer: bool = False,
    ) -> None:
        time.sleep(self.pause_seconds)
        began, problems = time.monotonic(), list[str]()
        at = began
        try:
            at = act()
        except (TimeoutError, EndpointUnavailable, ModelRefused, OSError) as error:
            problems.append(f"{type(error).__name__}: {error}")
        self.events.append(
            Event(
                name=name,
                began=began,
                at=at,
                ended=time.monotonic(),
                switches=switches,
                killed=killed.digest if killed else "",
                refused=refused.digest if refused else "",
                may_answer=may_answer,
                problems=tuple(problems),
            )
        )

    def _promote(self, artifact: Artifact) -> float:
        """Beside the live one, then in its place; when it was switched."""
        wanted = self.host.endpoint.stage(
            artifact, channel=CHANNEL, owner=OWNER, release=self._refs[artifact.digest], lease_seconds=600
        )
        self.host.endpoint.wait_ready(wanted, deadline_seconds=DEADLINE_SECONDS)
        at = self._switch(artifact.digest)
        self.host.endpoint.unstage(wanted)
        return at

    def _roll_back(self) -> float:
        """To what the channel served before, by the same switch."""
        return self._switch(self.host.ledger.served_before(CHANNEL)[0].artifact_digest)

    def _switch(self, digest: str) -> float:
        now = self.host.ledger.channel(CHANNEL)
        state = self.host.ledger.switch_channel(
            CHANNEL,
            digest=digest,
            release=self._refs[digest],
            target="eu",
            family="soak",
            expected_generation=now.generation if now else 0,
        )
        at = time.monotonic()
        self.host.endpoint.wait_visible(CHANNEL, generation=state.generation, deadline_seconds=DEADLINE_SECONDS)
        return at

    def _change_and_refuse(self) -> float:
        """One byte of its weights is another one than when it was judged."""
        weights = next(Path(self.changed.folder).glob("*.safetensors"))
        weights.chmod(0o644)
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return self._refuse(self.changed, "sha256")

    def _refuse(self, artifact: Artifact, why: str) -> float:
        """Stage what cannot be served; when it was refused."""
        wanted = self.host.endpoint.stage(
            artifact, channel=CHANNEL, owner=OWNER, release=self._refs[artifact.digest], lease_seconds=600
        )
        try:
            self.host.endpoint.wait_ready(wanted, deadline_seconds=DEADLINE_SECONDS)
        except ModelRefused as refused:
            if why not in str(refused):
                raise
            return time.monotonic()
        finally:
            self.host.endpoint.unstage(wanted)
        raise ModelRefused(f"{artifact.short} came up, and was expected to be refused: {why}")

    def _artifact(self, model: str, *, breaks: bool = False) -> Artifact:
        """A model of the demo family as an artifact of its own: generation_config.json says which release it is."""
        self._made += 1
        folder = self.host.home / f"made-{self._made}"
        shutil.copytree(MODELS / model, folder)
        path = folder / "generation_config.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**told, "transformers_version": f"5+{self._made}"}))
        if breaks and not self.host.is_fake:  # more layers than there are weights for
            config = json.loads((folder / "config.json").read_text())
            config["num_hidden_layers"] += 1
            (folder / "config.json").write_text(json.dumps(config))
        artifact = self.host.store.adopt(folder)
        ref = ModelRef(repo_id=f"lab/instruct-v{self._made}", revision=f"{self._made}" * 40)
        self._refs[artifact.digest], self.releases[artifact.digest] = ref, str(ref)
        if breaks and self.host.is_fake:
            self.host.fault(artifact.digest).write_text(json.dumps({"crash": "this model cannot be loaded"}))
        return artifact
