"""From the settings to a reconciler that may begin, and to the endpoint that flows use."""

import pytest

from deployments.serving import reconciler_of
from tasks import doors
from tasks.domain.errors import InputError
from tasks.endpoints.cluster.endpoint import KubernetesEndpoint
from tasks.settings import settings


@pytest.fixture
def chosen(api, tmp_path, monkeypatch):
    config = tmp_path / "kubeconfig"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: k, cluster: {{server: '{api.url}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
    )
    values = {
        "HOME": tmp_path / "home",
        "ENDPOINT": "kubernetes",
        "CLUSTER_SERVING_IMAGE": "x/serving:1",
        "CLUSTER_INSTALLATION": "blue",
        "CLUSTER_GPUS": 2,
        "DEVICE": "gpu",
        "RUN_FOLDER": tmp_path / "run",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    doors.forget()
    yield settings
    doors.forget()


def test_the_settings_become_a_reconciler_that_may_begin(chosen, monkeypatch):
    with pytest.raises(InputError, match="EMPELT_CLUSTER_PIPELINE_IMAGE"):
        reconciler_of(chosen()).check()
    monkeypatch.setenv("EMPELT_CLUSTER_PIPELINE_IMAGE", "x/pipeline:1")
    doors.forget()
    made = reconciler_of(chosen())
    made.check()
    assert (made.plan.installation, made.plan.gpus, made.plan.serving_image) == ("blue", 2, "x/serving:1")
    assert made.plan.store == str(chosen().store)
    assert made.routes_path == chosen().routes
    assert made.profile.device == "gpu"
    assert made.fleet.client.manager == "empelt-blue"


def test_flows_get_the_clusters_endpoint(chosen):
    assert isinstance(doors.open_endpoint(), KubernetesEndpoint)
