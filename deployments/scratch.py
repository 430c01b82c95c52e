"""The temporary folders of children: what one that was killed has left goes as soon as nothing works in it.

Prefect makes a folder for each run in its worker's TMPDIR and starts the run there. A killed worker removes none of
them, and its runs live on: a run whose folder is taken away fails when it next asks where it is.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from tasks.processes import marked_processes


def remove_unused(folders: Iterable[Path], instance: str, variable: str) -> set[Path]:
    """Remove those of ``folders`` in which no process works; those that stay for now.

    Args:
        folders: whole trees, or single files.
        instance: what ``variable`` is in the environment of the processes that may work there.
        variable: the mark of an installation's processes.
    """
    left = {folder for folder in folders if folder.exists()}
    if not left:
        return left
    places = [place for process in marked_processes(instance, variable) if (place := _working_folder(process))]
    used = {folder for folder in left if any(place.is_relative_to(folder) for place in places)}
    for folder in left - used:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)
    return used


def _working_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None
