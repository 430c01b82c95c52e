"""Prefect's own home for these tests, set before anything imports it; and one server for those that need one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

# Prefect reads its settings while it is imported, and writes a database, logs and a profile into its home.
_HOME = tempfile.mkdtemp(prefix="empelt-test-prefect-")
os.environ["PREFECT_HOME"] = _HOME
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _prefect_home() -> Iterator[None]:
    yield
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[int]:
    """The port of a real Prefect server with an empty database; it takes 30 s to start, so the session has one."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        port = urlsplit(str(PREFECT_API_URL.value())).port
        assert port is not None
        yield port
