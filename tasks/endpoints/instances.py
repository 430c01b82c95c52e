"""One instance on its way: hashed, started, asked for its health, started again with back-off when it ends.

States as a person sees them: ``starting`` (hashing, waiting for room, loading), ``ready``, ``failed``, ``stopping``. A
staged instance that fails twice stays failed, so that a broken candidate cannot keep a device busy for ever; a live
one is tried again for as long as it is wanted, at most once a minute. Its files are hashed again before each start, and
before it is ready they must be those that were hashed, in the folder and in its processes' maps. A start that no flow
checks must answer as its artifact did when it was judged, before it is ready.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from tasks.domain.errors import EndpointUnavailable, ModelRefused
from tasks.domain.models import Artifact, Digest
from tasks.domain.records import InstanceState, InstanceStatus
from tasks.endpoints.launcher_client import LauncherClient, Listed, tail_of
from tasks.endpoints.mapped import ENDING, changed_since, read_maps, stamps
from tasks.endpoints.placement import Device, Need
from tasks.endpoints.probe import ask_health
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import Artifacts
from tasks.endpoints.proving import ASKED
from tasks.endpoints.wishes import Wish

MAX_BACKOFF_SECONDS = 60.0
STAGED_ATTEMPTS = 2
READY_DEADLINE_SECONDS = 600.0
"""As vLLM's own VLLM_ENGINE_READY_TIMEOUT_S."""
HEALTH_SECONDS = 2.0
"""Between two questions to an instance that is ready; its end is seen sooner, from the launcher's list."""
REFUSED = "refused: "
"""How the reason of a failure begins when another start would change nothing."""

logger = logging.getLogger(__name__)


@dataclass
class Instance:
    """What the agent knows of one instance. The agent moves it on, once in each of its rounds."""

    wish: Wish
    profile: ServingProfile
    artifact: Artifact | None = None
    adapters: tuple[Artifact, ...] = ()
    """In the order of the profile's."""
    state: InstanceState = "starting"
    reason: str = "new"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    uds: str = ""
    pid: int | None = None
    start_time: float | None = None
    device: Device | None = None
    started: bool = False
    """A process of it may exist: it loads, answers, hangs or is being stopped."""
    needs_proof: bool = False
    """Nobody but the agent holds what this start says against what was judged."""
    failures: int = 0
    retry_at: float = 0.0
    _hashing: Future[list[Artifact]] | None = None
    _verified: bool = False
    _hashed: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Which files were hashed; empty for one that an earlier agent had hashed."""
    _mapped: str = ""
    _has_started: bool = False
    _last_health: float = 0.0
    _started_at: float = 0.0

    @property
    def refused(self) -> bool:
        """Another start would change nothing."""
        return self.state == "failed" and self.reason.startswith(REFUSED)

    @property
    def given_up(self) -> bool:
        """No further start is tried for this wish."""
        finished = self.refused or self.failures >= STAGED_ATTEMPTS
        return self.state == "failed" and self.wish.keep == "staged" and finished

    @property
    def is_hopeless(self) -> bool:
        """It has failed more than once, or cannot be started at all: what was served before goes first."""
        return self.refused or (self.failures >= STAGED_ATTEMPTS and self.state != "ready")

    @property
    def is_coming(self) -> bool:
        """Worth waiting for: on its way up, or to be tried again soon."""
        return not self.refused and self.failures <= STAGED_ATTEMPTS

    @property
    def is_loading(self) -> bool:
        """Its process is on its way up, and its device is spoken for: two at once mis-size each other (vllm#55827)."""
        return self.started and self.state == "starting"

    def answers_for(self, wish: Wish) -> "Instance":
        """What is known of it as the one that answers for one of its adapters: neither flags nor facts name others."""
        return replace(self, wish=wish, profile=replace(self.profile, adapters=()))

    def judged_as(self, *, image: str) -> tuple[dict[str, Digest], dict[str, str]]:
        """Pinned name -> artifact of what it answers as, and the facts by which that was judged."""
        facts = replace(self.profile, adapters=()).facts(image=image)
        if self.profile.adapters:  # the model under them is no channel's, and nothing of it is on record
            return {one.name: one.digest for one in self.profile.adapters}, facts
        return {f"{self.wish.channel}@{self.wish.digest[:12]}": self.wish.digest}, facts

    def need(self) -> Need:
        """What it needs of a device."""
        files = self.artifact.files if self.artifact else ()
        weights = sum(f.size for f in files if f.path.endswith(".safetensors"))
        sizes = [sum(f.size for f in one.files) for one in self.adapters]
        # Each is kept as it was loaded, and has a place as large as the largest; one place stays empty.
        weights += sum(sizes) + (len(sizes) + 1) * max(sizes, default=0)
        device = self.device.name if self.device and self.started else None
        return Need(self.wish.name, self.profile.memory_bytes(weights), self.profile.device, device)

    def renew(self, wish: Wish) -> None:
        """The wish of this round. One that was asked again after it had been given up is tried again."""
        asked_again = wish.asked_at is not None and wish.asked_at > self.since
        self.wish = wish
        if asked_again and self.given_up:
            self.failures, self.retry_at = 0, 0.0
            self._move("starting", "asked for again")

    def prepare(self, artifacts: Artifacts, executor: Executor) -> None:
        """Look it up and hash its files, before each start."""
        if self.started or self._verified or self.given_up or time.monotonic() < self.retry_at:
            return
        if self._hashing is None:
            self._move("starting", "hashing its files")
            self._hashing = executor.submit(self._hash, artifacts)
        if not self._hashing.done():
            return
        hashing, self._hashing = self._hashing, None
        try:
            self.artifact, *adapters = hashing.result()
            self.adapters = tuple(adapters)
            self._verified = True
        except (ModelRefused, OSError) as error:
            logger.error("%s is not started: %s", self.wish.name, error)
            self._fail(f"{REFUSED}{error}", wait_seconds=MAX_BACKOFF_SECONDS)

    def _hash(self, artifacts: Artifacts) -> list[Artifact]:
        self._hashed = stamps(artifacts.get(self.wish.digest))  # before they are read: what changes meanwhile is seen
        return [artifacts.verify(one) for one in (self.wish.digest, *(a.digest for a in self.profile.adapters))]

    @property
    def may_start(self) -> bool:
        """Its files have been hashed and its back-off is over."""
        return self._verified and not self.started and time.monotonic() >= self.retry_at

    def adopt(self, listed: Listed, artifacts: Artifacts, *, is_routed: bool) -> None:
        """Take over a running instance that an earlier agent had hashed and started.

        One that was routed goes on answering without a pause; another one may be a start that nobody has checked yet.
        """
        try:
            self.artifact = artifacts.get(self.wish.digest)
            self.adapters = tuple(artifacts.get(one.digest) for one in self.profile.adapters)
        except ModelRefused as error:  # it answers from what it has mapped; it could not be started again
            logger.warning("%s runs, but %s", self.wish.name, error)
        self.pid, self.start_time, self.uds, self.started = listed.pid, listed.start_time, listed.uds, True
        self._started_at = time.monotonic()
        self.needs_proof = not is_routed
        self._move("starting", "adopted; asking for its health")
        logger.info("%s: adopted pid %d", self.wish.name, listed.pid)
        self.watch({self.wish.name: listed})

    def start(self, launcher: LauncherClient, device: Device, run_folder: Path, env: Mapping[str, str]) -> None:
        """Ask the launcher for a process. Its socket's name is new each time: a stale one cannot be bound again."""
        if self.artifact is None:
            return
        self.device = device
        # The first start of what is staged is checked by whoever staged it; a later one may come after that.
        self.needs_proof = self.failures > 0 or self._has_started or self.wish.keep != "staged"
        self.uds = str(run_folder / f"{self.wish.name}.{time.time_ns() // 1_000_000 % 10**8}.sock")
        try:
            self.pid, self.start_time = launcher.start(
                self.wish.name,
                model=self.artifact.folder,
                # The first one is what answers say in `model`: the exact artifact. The others may be asked for too.
                served_names=(f"{self.wish.channel}@{self.wish.digest[:12]}", self.wish.channel),
                uds=self.uds,
                flags=self.profile.flags(),
                env={**device.env, **env},
                adapters={
                    served.name: held.folder for served, held in zip(self.profile.adapters, self.adapters, strict=True)
                },
            )
        except EndpointUnavailable as error:
            self._fail(str(error))
            return
        self.started, self._started_at, self._has_started = True, time.monotonic(), True
        self._move("starting", "loading")
        logger.info("%s: started as pid %s on %s", self.wish.name, self.pid, device.name)

    def watch(
        self,
        listed: Mapping[str, Listed] | None,
        prove: Callable[["Instance"], str | None] = lambda _: None,
    ) -> None:
        """See whether it has come up, or has gone.

        Args:
            listed: what the launcher runs; None while it does not answer.
            prove: what speaks against its being the judged model: "" if nothing does, None while it is being asked.
        """
        if not self.started or self.state not in ("starting", "ready"):
            return
        entry = listed.get(self.wish.name) if listed is not None else None
        if listed is not None and (entry is None or not entry.alive):
            code = "unknown" if entry is None else entry.exit_code
            log = tail_of(entry.log) if entry else "(the launcher does not know it any more)"
            self.started = False
            self._fail(f"it ended with code {code}. Its log ends:\n{log}")
            return
        now = time.monotonic()
        if self.state == "ready" and listed is not None and now - self._last_health < HEALTH_SECONDS:
            return
        self._last_health = now
        health = ask_health(self.uds)
        if self.state == "ready" and health.dead:
            self._fail("its engine is dead: /health was refused or answered 503")
        elif self.state == "ready" and self.failures and now - self._started_at > MAX_BACKOFF_SECONDS:
            self.failures = 0
        elif self.state == "starting" and health.up and self._is_judged_model(prove):
            self._move("ready", "")
            logger.info("%s: ready after %.1f s", self.wish.name, now - self._started_at)
        elif self.state == "starting" and now - self._started_at > READY_DEADLINE_SECONDS:
            self._fail(f"it was not ready within {READY_DEADLINE_SECONDS:.0f} s")

    def _is_judged_model(self, prove: Callable[["Instance"], str | None]) -> bool:
        """By its files, and where nobody else asks, by what it says. A failure if not; False while it is asked."""
        if problems := self._other_files():
            self._fail(f"it may serve other files than those that were hashed: {'; '.join(problems)}")
            return False
        if not self.needs_proof:
            return True
        wrong = prove(self)
        if wrong:
            self._fail(f"it does not answer as it did when it was judged: {wrong}")
        elif wrong is None and self.reason != ASKED:
            self._move("starting", ASKED)
        return wrong == ""

    def _other_files(self) -> list[str]:
        """What speaks against its having loaded the files that were hashed. It has no traffic yet."""
        if self.artifact is None or self.pid is None:
            return []
        weights = [file.path for file in self.artifact.files if file.path.endswith(ENDING)]
        seen = read_maps(self.pid, self.artifact.folder, weights)
        self._mapped = str(seen)
        return [*seen.problems, *(changed_since(self.artifact, self._hashed) if self._hashed else ())]

    def wait_for(self, reason: str) -> None:
        """It cannot start yet."""
        if self.state == "starting" and not self.started and self._verified:
            self._move("starting", reason)

    def stop(self) -> None:
        """It is about to be stopped. A failure stays visible."""
        if self.state != "failed":
            self._move("stopping", "no longer wanted, or its room is needed")

    def stopped(self) -> None:
        """Its process is gone; if it is wanted still, it begins anew."""
        self.started = self._verified = False
        if self.state != "failed":
            self._move("starting", "stopped; to be started again when it has room")

    def status(self, image: str) -> InstanceStatus:
        """As the ledger records it."""
        trying = self.state == "failed" and self.wish.keep == "staged" and not self.given_up
        return InstanceStatus(
            name=self.wish.name,
            digest=self.wish.digest,
            channel=self.wish.channel,
            state="starting" if trying else self.state,
            reason=self.reason,
            pid=self.pid if self.started else None,
            start_time=self.start_time if self.started else None,
            uds=self.uds if self.started else None,
            since=self.since,
            mode=image.rsplit(" ", 1)[-1],
            serving=self.profile.facts(image=image),
            model_name=f"{self.wish.channel}@{self.wish.digest[:12]}",
            mapped=self._mapped if self.started else "",
        )

    def _fail(self, reason: str, *, wait_seconds: float | None = None) -> None:
        if not reason.startswith(REFUSED):
            logger.error("%s: %s", self.wish.name, reason)
        self.failures += 1
        self._verified = False
        self.retry_at = time.monotonic() + (wait_seconds or min(MAX_BACKOFF_SECONDS, 2.0 ** (self.failures - 1)))
        self._move("failed", reason)

    def _move(self, state: InstanceState, reason: str) -> None:
        if state != self.state:
            self.since = datetime.now(UTC)
        self.state, self.reason = state, reason
