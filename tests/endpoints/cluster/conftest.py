"""A cluster for the tests: an API server over HTTP, and what makes pods of Deployments. Needs the extra `kubernetes`."""

import tempfile
from pathlib import Path

import pytest
from kubernetes import client as official

from tasks.endpoints.cluster.client import ClusterClient
from tests.endpoints.cluster.fake_api import FakeApi
from tests.endpoints.cluster.fake_nodes import FakeNodes


@pytest.fixture
def api():
    server = FakeApi()
    server.url = server.start()
    yield server
    server.stop()


@pytest.fixture
def nodes(api):
    made = FakeNodes(api, Path(tempfile.mkdtemp(prefix="em-")))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def waited():
    """How long the client would have waited before each further try."""
    return []


@pytest.fixture
def cluster(api, waited):
    chosen = official.Configuration(host=api.url)
    chosen.retries = False
    return ClusterClient(official.ApiClient(chosen), namespace="empelt", manager="empelt-test", sleep=waited.append)
