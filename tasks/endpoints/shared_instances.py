"""What the agent knows of instances that hold adapters: who answers for what, and what a new agent must find again.

Which instance should hold which adapters is decided in ``sharing``. An adapter is told from a model by its own files,
which are part of its digest; it names the model that it is for. What a running instance holds is kept in a file beside
its socket, since neither the ledger nor the routes say so of one that is about to be switched to.
"""

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tasks.domain.adapters import ADAPTER_CONFIG, model_under
from tasks.domain.errors import ModelRefused
from tasks.domain.models import Digest
from tasks.endpoints.instances import Instance
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import Artifacts
from tasks.endpoints.routes import InstanceRoute, Routes
from tasks.endpoints.sharing import SHARED, is_shared, members, share
from tasks.endpoints.wishes import Wish

logger = logging.getLogger(__name__)


class Sharing:
    """The adapters of one host, from round to round."""

    def __init__(self, artifacts: Artifacts, folder: Path, default: ServingProfile) -> None:
        """Read nothing yet; ``folder`` is where instances have their sockets."""
        self._artifacts, self._folder, self._default = artifacts, folder, default
        self._models: dict[Digest, Digest | None] = {}
        """Artifact -> the model that it is served over; None for one that is a model itself."""
        self._of: dict[str, str] = {}
        """Name of an adapter's wish -> the instance that answers for it."""
        self._asked: dict[str, Wish] = {}

    def arrange(self, wishes: Sequence[Wish], instances: Mapping[str, Instance], routes: Routes) -> list[Wish]:
        """The instances that should run for these wishes, in order of importance."""
        held = {name: one for name, one in instances.items() if is_shared(one.wish) and not one.is_hopeless}
        found = share(
            wishes,
            {wish.digest: model for wish in wishes if (model := self._model_of(wish.digest)) is not None},
            {name: one.wish for name, one in held.items()},
            {name for name, one in held.items() if one.state == "ready"},
            {name: route.process for name, route in routes.instances.items() if route.process},
            self._default,
        )
        self._of = found.of
        self._asked = {wish.name: wish for wish in wishes if wish.name in found.of}
        return found.wishes

    def held_by(self, names: Collection[str], instances: Mapping[str, Instance]) -> set[str]:
        """These instances, and every adapter that they hold, asked for or not."""
        shared = (instances[name].wish for name in names if name in instances and is_shared(instances[name].wish))
        return {*names, *(member for wish in shared for member in members(wish))}

    def asked_of(self, names: Collection[str]) -> set[str]:
        """These instances, and the adapters that they are to answer for."""
        return {*names, *(member for member, name in self._of.items() if name in names)}

    def routes(self, up: Collection[str], instances: Mapping[str, Instance]) -> dict[str, InstanceRoute]:
        """What may be routed to: instances of this set, and the adapters that they answer for."""
        found = {}
        for wish, one in self._answers(instances, up):
            found[wish.name] = InstanceRoute(
                name=wish.name,
                channel=wish.channel,
                digest=wish.digest,
                uds=one.uds,
                release=wish.release,
                process=one.wish.name if one.wish.name != wish.name else "",
            )
        return found

    def answering(self, instances: Mapping[str, Instance]) -> list[Instance]:
        """For each adapter the instance that answers for it, as that adapter's."""
        return [one.answers_for(wish) for wish, one in self._answers(instances, set(self._of.values()), own=False)]

    def _answers(
        self, instances: Mapping[str, Instance], among: Collection[str], *, own: bool = True
    ) -> Iterator[tuple[Wish, Instance]]:
        for name in sorted(among):
            if own and name in instances and not is_shared(instances[name].wish):
                yield instances[name].wish, instances[name]
        for member, name in sorted(self._of.items()):
            if name in among and name in instances:
                yield self._asked[member], instances[name]

    def remember(self, wish: Wish) -> None:
        """An instance is about to be started: an agent that comes after this one must know what it holds."""
        if not is_shared(wish):
            return
        fresh = self._file(wish.name).with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"model": wish.digest, "extra": dict(wish.extra)}), encoding="utf-8")
        os.replace(fresh, self._file(wish.name))

    def recall(self, names: Iterable[str]) -> list[Wish]:
        """Of these instances, which an earlier agent has started, those that hold adapters."""
        found = []
        for name in sorted(name for name in names if name.startswith(f"{SHARED}-") and self._file(name).exists()):
            try:
                told = json.loads(self._file(name).read_bytes())
                found.append(Wish(name, SHARED, str(told["model"]), "", "previous", told["extra"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s runs, and what it holds cannot be read: %s", name, error)
        return found

    def forget(self, name: str) -> None:
        """It is gone."""
        if name.startswith(f"{SHARED}-"):
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _model_of(self, digest: Digest) -> Digest | None:
        """The model that an artifact is served over; None for one that is a model itself, or that is not here."""
        if digest not in self._models:
            try:
                artifact = self._artifacts.get(digest)
                is_adapter = any(file.path == ADAPTER_CONFIG for file in artifact.files)
                path = Path(artifact.folder) / ADAPTER_CONFIG
                self._models[digest] = model_under(json.loads(path.read_bytes()), str(path)) if is_adapter else None
            except (ModelRefused, OSError, ValueError):  # its own start says why: its files are hashed before it
                return None
        return self._models[digest]
