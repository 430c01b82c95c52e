"""Tables in the UI that a watch keeps up to date: a version is made when the table has changed, and not for each watch.

An artifact keeps all of its versions, and a watch comes 52,000 times a year.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

Rows = Sequence[Mapping[str, Any]]


def show_table(key: str, rows: Rows, description: str, *, at_most_every: timedelta = timedelta(0)) -> bool:
    """Make a new version of the table ``key`` if it is not as it was; whether one was made.

    Args:
        key: of the artifact.
        rows: of JSON values.
        description: shown above it. Another one alone makes no new version.
        at_most_every: one that differs is made no sooner after the last one.
    """
    asked = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        last = next(iter(client.read_latest_artifacts(artifact_filter=asked)), None)
    if last is not None and last.updated is not None and datetime.now(UTC) - last.updated < at_most_every:
        return False
    if last is not None and _rows_in(last.data) == json.loads(json.dumps(list(rows))):
        return False
    create_table_artifact([dict(row) for row in rows], key=key, description=description)
    return True


def _rows_in(data: object) -> object:
    """A table's rows as Prefect gives them back: a text of JSON."""
    return json.loads(data) if isinstance(data, str) else data
