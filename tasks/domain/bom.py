"""A bill of materials of a merged model: CycloneDX 1.6 as JSON. Pure.

Written by hand: cyclonedx-python-lib has no model cards (its issues 912 and 913). A test validates it by the official
schema. The serial number is made from the artifact, so the same artifact has the same bill.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from tasks.domain.card import Measured
from tasks.domain.licences import Ancestor, Inherited
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Digest, FileDigest

BOM = "empelt.cdx.json"
_SPACE = UUID("7d3c1f5e-6f0b-5d0a-9c55-1f8a4b1c0e61")
"""Of our serial numbers; any fixed value would do."""


def bill(
    lineage: Lineage,
    *,
    name: str,
    artifact: Digest,
    merge: Digest,
    found: Inherited,
    ancestors: Sequence[Ancestor],
    measured: Sequence[Measured],
    files: Sequence[FileDigest],
) -> str:
    """The bill as text.

    Args:
        lineage: of the merge.
        name: of the model.
        artifact: its content digest.
        merge: its merge key.
        found: its licence.
        ancestors: with the licences that their cards state.
        measured: its scores.
        files: of the artifact.
    """
    licences = {one.name: one.stated.key for one in ancestors}
    parents = [_parent(part, licences.get(part.ref.repo_id, "")) for part in lineage.ingredients]
    refs = [parent["bom-ref"] for parent in parents]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": artifact[:12],
        "licenses": [_licence(found.name or found.licence)],
        "pedigree": {"ancestors": [dict(parent, **{"bom-ref": f"{parent['bom-ref']}:pedigree"}) for parent in parents]},
        "modelCard": {
            "modelParameters": {"task": "text-generation", "architectureFamily": "transformer"},
            "quantitativeAnalysis": {"performanceMetrics": [_metric(one) for one in measured]},
        },
        "properties": [
            *(_property("artifact", artifact), _property("merge-key", merge), _property("target", lineage.target)),
            *(_property("engine", lineage.engine_version), _property("recipe", json.dumps(dict(lineage.recipe)))),
        ],
        "components": [_file(file) for file in files],
    }
    whole = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(_SPACE, f'{artifact} {merge}')}",
        "version": 1,
        "metadata": {"component": model, "tools": {"components": [{"type": "application", "name": "empelt"}]}},
        "components": parents,
        "dependencies": [{"ref": "model", "dependsOn": refs}],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _parent(part: Ingredient, licence: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{part.role}:{part.ref.repo_id}@{part.ref.revision}",
        "name": part.ref.repo_id,
        "version": part.ref.revision,
        "purl": f"pkg:huggingface/{part.ref.repo_id}@{part.ref.revision}",
        "licenses": [_licence(licence or "unknown")],
        "properties": [_property("role", part.role), _property("content-digest", part.digest)],
    }


def _licence(name: str) -> dict[str, Any]:
    """By name and not by an SPDX id: ids of the Hub (``llama3.1``, ``apache-2.0``) are written in another way there."""
    return {"license": {"name": name}}


def _metric(one: Measured) -> dict[str, Any]:
    interval = {"lowerBound": f"{one.low:.6f}", "upperBound": f"{one.high:.6f}"}
    return {"type": one.metric, "value": f"{one.value:.6f}", "slice": one.benchmark, "confidenceInterval": interval}


def _file(file: FileDigest) -> dict[str, Any]:
    return {"type": "file", "name": file.path, "hashes": [{"alg": "SHA-256", "content": file.sha256}]}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"empelt:{name}", "value": value}
