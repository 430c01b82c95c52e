"""One merge in a child process: its folder, the engine, the card beside what it made, and the record of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.child import Event, run_child
from tasks.disk import merge_folder
from tasks.domain.adapters import base_name
from tasks.domain.card import card_files
from tasks.domain.errors import InputError, TransientError
from tasks.domain.jobs import Job
from tasks.domain.licences import LICENCE_FILE
from tasks.domain.models import Artifact, Digest
from tasks.domain.words import duration, size
from tasks.doors import open_ledger, open_source, open_store
from tasks.progress import ProgressBar
from tasks.settings import settings
from tasks.sources.cards import ancestry
from tasks.sources.room import alone_in


@contextmanager
def half_done(job: Job) -> Iterator[Path]:
    """One folder for one merge, one run at a time: who comes after a kill goes on from what is on the disk there."""
    scratch = open_store().scratch(merge_folder(job), outlives=True)
    with alone_in(scratch):
        goes_on = False
        try:
            yield scratch
        except TransientError:
            goes_on = True
            raise
        finally:
            if not goes_on:
                shutil.rmtree(scratch, ignore_errors=True)


def program(job: Job, inputs: dict[str, Digest], config: Path, out: Path) -> tuple[list[str], str]:
    """The program that makes what the job asks for, a model or an adapter, and its arguments."""
    adapter = job.lineage.adapter
    if adapter is None:
        return [str(config), str(out)], "tasks.engine"
    asked = ["--rank", str(adapter.rank), "--carry", adapter.carry, "--base-name", base_name(inputs["instruct"])]
    return [str(config), str(out), *asked], "tasks.engine.adapt"


def run_engine(
    folders: dict[str, str], arguments: list[str], on_event: Callable[[Event], None], module: str = "tasks.engine"
) -> Event:
    """The engine in a child; TransientError where a folder went away under it, since a model was packed or unpacked."""
    try:
        return run_child(
            module,
            [*arguments, "--json-lines"] if module == "tasks.engine" else arguments,
            deadline_seconds=settings().evaluate_deadline_seconds,
            silence_seconds=settings().silence_seconds,
            records=settings().children,
            on_event=on_event,
            # Of an adapter's decompositions: more threads give other bytes, and wait for each other on busy cores.
            told={"OPENBLAS_NUM_THREADS": "1"},
        )
    except InputError as refusal:
        gone = [folder for folder in folders.values() if not Path(folder).is_dir()]
        if not gone:
            raise
        raise TransientError(f"{', '.join(gone)} went away during the merge; it begins again") from refusal


def describe(job: Job, folders: dict[str, str], report: Event, out: Path, search: str = "") -> None:
    """Write the card, and the licence where it is none of the Hub's, beside what the engine made."""
    models = [(part.ref, Path(folders[part.role])) for part in job.lineage.ingredients]
    licence = out / LICENCE_FILE
    donated = licence.read_text(encoding="utf-8", errors="replace") if licence.is_file() else ""
    ancestors = ancestry(open_source(), models)
    for name, text in card_files(job.lineage, ancestors, report, licence_file=donated, search=search).items():
        (out / name).write_text(text, encoding="utf-8")


def record_merge(job: Job, artifact: Artifact, report: Event, progress: ProgressBar) -> None:
    """Put down what was made and what it took: in the ledger, the progress artifact and the log."""
    seconds, peak = float(report["seconds"]), report.get("peak_rss_bytes")
    open_ledger().record_artifact(job.merge_key, artifact, job.lineage, seconds=seconds, peak_bytes=peak)
    written = int(report["bytes_written"])
    resumed = int(report.get("resumed_bytes", 0))
    before = f", {size(resumed)} of them by an attempt that was killed" if resumed else ""
    told = f"{size(written)} in {duration(seconds)}, {written / seconds / 1e9:.2f} GB/s, peak {size(peak)}{before}"
    progress.end(told)
    get_run_logger().info("merged %s: artifact %s, %s", job.name, artifact.short, told)
