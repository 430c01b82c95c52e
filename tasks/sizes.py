"""Where a merge runs: the class of machine that its models fit, as queue and job variables of the run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from prefect.logging import get_run_logger

from tasks.domain.jobs import Job
from tasks.domain.models import Artifact, Digest
from tasks.domain.sizing import (
    ITEM_BYTES,
    Dtype,
    Weights,
    billions,
    class_for_merge,
    class_for_serving,
    load_classes,
    merge_gib,
)
from tasks.doors import open_catalog, open_store
from tasks.settings import settings

STARTING_SECONDS = 1800
"""For a machine to be found and an image to be pulled, on top of the merge's own deadline."""


def run_options(job: Job, inputs: Mapping[str, Digest]) -> dict[str, Any]:
    """``work_queue_name`` and ``job_variables`` for the merge of ``inputs``; nothing where no classes are declared.

    Raises:
        InputError: the merge fits no class, or what it makes could be served by none. Nothing was started.
    """
    classes = load_classes(settings().catalog)
    if not classes:
        return {}
    models = [weights_of(open_store().get(digest)) for digest in inputs.values()]
    largest, method = max(models), str(job.lineage.recipe["method"])
    serving = open_catalog().family(job.family).serving
    class_for_serving(classes, largest.parameters, serving.dtype, kv_mib=serving.kv_mib)
    chosen = class_for_merge(classes, largest, method, models=len(models))
    needed = merge_gib(largest, method, models=len(models), threads=chosen.cores)
    get_run_logger().info(
        "%s: %d models of %s parameters, %s: %.1f GiB; queue %s",
        *(job.name, len(models), billions(largest.parameters), method, needed, chosen.name),
    )
    variables = {
        "gpu_class": chosen.name,
        "gpu_count": chosen.gpus,
        "memory": f"{math.ceil(needed)}Gi",
        "deadline_seconds": settings().evaluate_deadline_seconds + STARTING_SECONDS,
    }
    return {"work_queue_name": chosen.name, "job_variables": {**variables, **chosen.job_variables}}


def weights_of(artifact: Artifact) -> Weights:
    """Parameters and dtype of a stored model: from its config, and the size of its weight files."""
    stored = sum(file.size for file in artifact.files if file.path.endswith(".safetensors"))
    config = json.loads((Path(artifact.folder) / "config.json").read_bytes())
    parts = [config, config.get("text_config") or {}]
    named = [part.get(key) for part in parts for key in ("dtype", "torch_dtype") if part.get(key)]
    # Counted as two bytes where nothing is said, or another type: rather too many parameters than too few.
    dtype = cast(Dtype, named[0] if named and named[0] in ITEM_BYTES else "bfloat16")
    return Weights(stored // ITEM_BYTES[dtype], dtype)
