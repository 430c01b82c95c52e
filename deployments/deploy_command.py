"""`empelt deploy` as people type it. Light: what it calls is imported when it is called."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deployments.output import AsJson, show


class GpuPool(StrEnum):
    """What starts the runs of the gpu pool."""

    process = "process"
    kubernetes = "kubernetes"


def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare with the server, write nothing.")] = False,
    gpu_pool: Annotated[GpuPool, typer.Option(help="Type of the gpu pool.")] = GpuPool.process,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Base job template of a Kubernetes pool.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write deployments, schedules, pools and queues to a shared Prefect server (PREFECT_API_URL). Safe to repeat.

    The same registry as `empelt up` writes to its own server; a queue for each class of machine in the catalog.

    Exit codes: 0 written or shown, 2 refused with all reasons and nothing written, 3 no server answers.
    """
    from deployments.deploying import as_text
    from deployments.deploying import deploy as write
    from tasks.settings import settings

    found = write(settings(), gpu=gpu_pool.value, template=template, dry_run=dry_run)
    show(found, as_json, as_text(found))
