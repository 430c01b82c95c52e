"""What fits where: a pure function of the declared devices and of what is wanted, in order of importance.

What comes first is placed first, and nothing that comes later can displace it. So the order given by the agent (live,
then staged, then kept warm) is the whole policy: when two versions do not fit side by side, the less important one
waits or goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

GIB = 1024**3


@dataclass(frozen=True)
class Device:
    """One device of a serving host, as the host declares it."""

    name: str
    kind: Literal["cpu", "gpu"]
    memory_bytes: int
    """What instances may use together, not what is built in."""
    max_instances: int = 16
    """A bound against mistakes; memory is what decides. Two jobs at once need two each beside what is live."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that bind an instance to it, such as CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Need:
    """One instance that should run."""

    name: str
    memory_bytes: int
    kind: Literal["cpu", "gpu"] = "cpu"
    running_on: str | None = None
    """The device it already runs on: an instance is not moved."""


@dataclass(frozen=True)
class Placement:
    """Where each placed instance goes, and why each other one waits."""

    placed: Mapping[str, Device]
    waiting: Mapping[str, str]


def place(devices: Sequence[Device], needs: Iterable[Need]) -> Placement:
    """Place ``needs`` in their order, each on the first device with room; the rest wait, each with its reason."""
    free = {d.name: d.memory_bytes for d in devices}
    slots = {d.name: d.max_instances for d in devices}
    placed: dict[str, Device] = {}
    waiting: dict[str, str] = {}
    for need in needs:
        if need.name in placed or need.name in waiting:
            continue  # wanted twice (live and staged) is one instance; the more important wish counts
        of_kind = [d for d in devices if d.kind == need.kind]
        candidates = [d for d in of_kind if need.running_on in (None, d.name)] or of_kind
        chosen = next((d for d in candidates if slots[d.name] > 0 and free[d.name] >= need.memory_bytes), None)
        if chosen is None:
            waiting[need.name] = _why(need, candidates, free, slots)
            continue
        placed[need.name] = chosen
        free[chosen.name] -= need.memory_bytes
        slots[chosen.name] -= 1
    return Placement(placed=placed, waiting=waiting)


def lint_placement(devices: Sequence[Device], channels: Mapping[str, Need]) -> tuple[str, ...]:
    """Problems of a catalog on these devices: all channels must fit live together. Empty when it fits.

    Args:
        devices: what the serving host declares.
        channels: what each channel's live instance needs, by channel.
    """
    found = place(devices, channels.values())
    return tuple(
        f"channel {channel} cannot be live together with the others: {found.waiting[need.name]}"
        for channel, need in channels.items()
        if need.name in found.waiting
    )


def lint_staging(devices: Sequence[Device], channels: Mapping[str, Need]) -> tuple[str, ...]:
    """Which channels have no room for a candidate beside all live ones: judging it there would have to wait."""
    live = list(channels.values())
    notes = []
    for channel, need in channels.items():
        staged = Need(f"{need.name} (candidate)", need.memory_bytes, need.kind)
        reason = place(devices, [*live, staged]).waiting.get(staged.name)
        if reason:
            notes.append(f"a candidate for {channel} does not fit beside what is live: {reason}")
    return tuple(notes)


def _why(need: Need, candidates: Sequence[Device], free: Mapping[str, int], slots: Mapping[str, int]) -> str:
    if not candidates:
        return f"{need.name} needs a {need.kind} and this host declares none"
    parts = []
    for device in candidates:
        if slots[device.name] <= 0:
            parts.append(f"{device.name} already holds its {device.max_instances} instances")
        else:
            parts.append(f"{device.name} has {_gib(free[device.name])} left of {_gib(device.memory_bytes)}")
    return f"{need.name} needs {_gib(need.memory_bytes)}; " + ", ".join(parts)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
