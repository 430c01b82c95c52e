"""The thin client against an API server that answers over HTTP: what each status means, and what is asked again."""

import pytest

from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.endpoints.cluster.access import NEEDED
from tasks.endpoints.cluster.client import TRIES, Conflict, open_cluster
from tasks.endpoints.cluster.objects import ours
from tests.endpoints.cluster.test_objects import PLAN, made

NAME = "empelt-eu-3f2a00112233"


def test_applying_twice_changes_nothing_and_applying_a_change_changes_only_that(api, cluster):
    deployment, _ = made()
    first = cluster.apply(deployment)
    assert cluster.apply(deployment)["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    api.edit("deployments", NAME, ("metadata", "annotations", "example.com/seen"), "yes")
    changed, _ = made(plan=type(PLAN)(**{**PLAN.__dict__, "cpu": "4"}))
    found = cluster.apply(changed)
    assert found["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "4"
    assert found["metadata"]["uid"] == first["metadata"]["uid"]
    assert found["metadata"]["annotations"]["example.com/seen"] == "yes", "what others have set must stay"


def test_what_somebody_has_changed_by_hand_is_put_back(api, cluster):
    deployment, _ = made()
    cluster.apply(deployment)
    api.edit("deployments", NAME, ("spec", "replicas"), 0)
    assert cluster.get("Deployment", NAME)["spec"]["replicas"] == 0
    assert cluster.apply(deployment)["spec"]["replicas"] == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_or_broken_server_is_asked_again(api, cluster, waited, status):
    deployment, _ = made()
    api.fault("PATCH", "deployments", status, times=2)
    assert cluster.apply(deployment)["metadata"]["uid"]
    assert len(waited) == 2
    assert waited == sorted(waited)


def test_a_connection_that_breaks_off_is_asked_again(api, cluster, waited):
    api.fault("GET", "services", 0, times=2)
    assert cluster.list_all("Service", ours(PLAN)) == []
    assert len(waited) == 2


def test_retry_after_is_waited_for_as_the_server_says(api, cluster, waited):
    api.fault("GET", "pods", 429, times=1, Retry_After="3")
    assert cluster.list_all("Pod", ours(PLAN)) == []
    assert waited == [3.0]


def test_a_retry_after_that_is_too_long_is_not_waited_for(api, cluster, waited):
    api.fault("GET", "pods", 429, times=1, message="too many requests", Retry_After="600")
    with pytest.raises(EndpointUnavailable, match="too many requests"):
        cluster.list_all("Pod", ours(PLAN))
    assert waited == []


def test_a_server_that_stays_broken_is_told_with_its_words_and_how_often_it_was_asked(api, cluster):
    api.fault("GET", "deployments", 500, times=100, message="etcdserver: request timed out")
    with pytest.raises(EndpointUnavailable, match=rf"after {TRIES} tries: 500: etcdserver: request timed out"):
        cluster.list_all("Deployment", ours(PLAN))
    assert api.count("GET", "deployments") == TRIES


def test_a_list_is_read_page_by_page_and_begun_anew_when_a_page_has_expired(api, cluster):
    api.page = 2
    for number in range(5):
        deployment, service = made(digest=f"{number:012d}" + "4" * 52)
        cluster.apply(deployment)
        cluster.apply(service)
    assert len(cluster.list_all("Deployment", ours(PLAN))) == 5
    assert api.count("GET", "deployments$") == 3
    before = len(api.asked)
    api.fault("GET", "services", 410, times=1, message="The provided continue parameter is too old")
    assert len(cluster.list_all("Service", ours(PLAN))) == 5
    assert len(api.asked) - before == 4, "one that expired, and three pages from the beginning"
    api.fault("GET", "services", 410, times=100, message="too old")
    with pytest.raises(EndpointUnavailable, match="410"):
        cluster.list_all("Service", ours(PLAN))


def test_the_label_keeps_others_objects_out_of_the_list(cluster):
    mine, other = made()[0], made(plan=type(PLAN)(**{**PLAN.__dict__, "installation": "other"}), channel="gl")[0]
    cluster.apply(mine)
    cluster.apply(other)
    assert [one["metadata"]["name"] for one in cluster.list_all("Deployment", ours(PLAN))] == [NAME]


def test_a_deletion_hits_the_object_that_was_read_or_none(api, cluster):
    _, service = made()
    uid = cluster.apply(service)["metadata"]["uid"]
    with pytest.raises(Conflict, match="precondition"):
        cluster.delete("Service", NAME, uid="another")
    cluster.delete("Service", NAME, uid=uid)
    assert cluster.get("Service", NAME) is None
    cluster.delete("Service", NAME, uid=uid)  # gone already


def test_what_the_server_refuses_is_told_with_every_reason(cluster):
    deployment, _ = made()
    deployment["spec"]["replica"] = 1
    deployment["spec"]["template"]["spec"]["containers"][0]["probe"] = {}
    with pytest.raises(InputError) as refused:
        cluster.apply(deployment)
    assert "replica" in str(refused.value)
    assert "probe" in str(refused.value)


def test_every_permission_that_is_missing_is_named(api, cluster):
    assert cluster.missing(NEEDED) == []
    api.forbidden = {("patch", "deployments"), ("list", "pods"), ("delete", "services")}
    assert sorted(map(str, cluster.missing(NEEDED))) == ["delete services", "list pods", "patch deployments.apps"]


def test_a_permission_that_is_taken_away_later_is_named_too(api, cluster):
    api.forbidden = {("create", "deployments")}
    with pytest.raises(EndpointUnavailable) as refused:
        cluster.apply(made()[0])
    assert "cannot create resource" in str(refused.value)
    assert "instances.yaml" in str(refused.value)


def test_without_a_cluster_it_says_where_one_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="KUBECONFIG"):
        open_cluster(namespace="empelt", manager="empelt")


def test_a_kubeconfig_names_the_cluster(api, monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: k, cluster: {{server: '{api.url}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert open_cluster(namespace="empelt", manager="empelt").list_all("Pod", ours(PLAN)) == []
