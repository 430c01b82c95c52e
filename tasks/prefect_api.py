"""Prefect's API of one installation, for whoever was not started by `empelt up` with its address and its password."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tasks.settings import Settings


@contextmanager
def prefect_of(chosen: Settings, api: str = "") -> Iterator[None]:
    """Clients that are made inside talk to the installation of ``chosen``, or to ``api`` where that is another server.

    Prefect reads its settings when it is imported, which may have been before there was a server.
    """
    told: dict[Any, Any] = {PREFECT_API_URL: api or f"{chosen.prefect_url}/api", PREFECT_HOME: chosen.home / "prefect"}
    if chosen.prefect_auth:
        told[PREFECT_API_AUTH_STRING] = chosen.prefect_auth.get_secret_value()
    with temporary_settings(told):
        yield
