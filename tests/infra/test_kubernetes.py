"""Manifests, job template and chart values, checked offline: by vendored schemas, and by what they say of each other."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tasks.domain.catalog import load_catalog
from tasks.domain.sizing import DeviceClass, Weights, class_for_merge, class_for_serving, load_classes
from tasks.domain.yaml_lines import Document
from tasks.endpoints.cluster.access import NEEDED, Permission
from tasks.endpoints.cluster.objects import ClusterPlan
from tasks.settings import Settings
from tests.endpoints.cluster.test_objects import made

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "kubernetes-1.37.json").read_text())
FILES = [FOLDER / f"{name}.yaml" for name in ("base", "worker", "serving", "network", "instances")]
MANIFESTS: list[dict[str, Any]] = [one for path in FILES for one in yaml.safe_load_all(path.read_text())]
TEMPLATE: dict[str, Any] = json.loads((FOLDER / "gpu-job.json").read_text())
NAMES = [f"{one['kind']} {one['metadata']['name']}" for one in MANIFESTS]
MADE_BY_HAND = {"empelt-job", "empelt-control", "empelt-catalog"}


def problems(manifest: dict[str, Any]) -> list[str]:
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    assert kind in SCHEMAS["kinds"], f"no schema for {kind}"
    schema = {"$ref": SCHEMAS["kinds"][kind], "$defs": SCHEMAS["$defs"]}
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    told = [jsonschema.exceptions.best_match([one]) for one in found]  # the cause, below the choices of a type or null
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}"[:300] for one in told]


def pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in MANIFESTS if one["kind"] == "Deployment"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=NAMES)
def test_a_manifest_is_what_kubernetes_reads(manifest: dict[str, Any]) -> None:
    assert problems(manifest) == []


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "template", "spec", "containers", 0, "livenessProb"),
        ("spec", "template", "spec", "containers", 0, "resources", "limit"),
        ("spec", "replica"),
    ],
)
def test_the_schema_sees_a_misspelt_key(path: tuple[str | int, ...]) -> None:
    broken = json.loads(json.dumps(next(one for one in MANIFESTS if one["kind"] == "Deployment")))
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = {}
    assert problems(broken)


def rendered(**values: Any) -> dict[str, Any]:
    """The job as Prefect's own base class makes it of the template and the variables of a run."""
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    class Configuration(BaseJobConfiguration):
        job_manifest: dict[str, Any]
        namespace: str

    # The address is never asked: without one Prefect would start a server, to look for blocks that the template lacks.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        made = asyncio.run(Configuration.from_template_and_values(TEMPLATE, values))
    return dict(made.job_manifest)


def test_a_run_becomes_a_job_with_its_class_memory_and_deadline() -> None:
    options = {"gpu_class": "l40s", "gpu_count": 1, "memory": "3Gi", "deadline_seconds": 16200, "image": "x/empelt:1"}
    job = rendered(**options, name="merge", command="prefect flow-run execute")
    # What Prefect's Kubernetes worker does to its manifest before it sends it: names, arguments and variables as lists.
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["args"], container["env"] = container["args"].split(), [{"name": "A", "value": "b"}]
    assert problems(job) == []
    spec = job["spec"]["template"]["spec"]
    assert job["spec"]["activeDeadlineSeconds"] == 16200
    assert job["spec"]["backoffLimit"] == 0  # Kubernetes must not start a run again: the ledger does
    assert spec["nodeSelector"] == {"empelt.dev/class": "l40s"}
    assert container["resources"]["limits"] == {"memory": "3Gi", "nvidia.com/gpu": 1}
    assert container["image"] == "x/empelt:1"
    shm = next(volume for volume in spec["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert "{{" not in json.dumps(job)


def test_every_variable_of_the_template_is_used_and_every_place_has_one() -> None:
    properties = TEMPLATE["variables"]["properties"]
    text = json.dumps(TEMPLATE["job_configuration"])
    assert [name for name in properties if f"{{{{ {name} }}}}" not in text] == []  # one that is not used is dropped
    assert {"gpu_class", "gpu_count", "memory", "deadline_seconds"} <= properties.keys()  # what the sizing hands over
    assert "NEVER RUN" in TEMPLATE["variables"]["description"]


def test_what_the_sizing_hands_over_is_known_to_the_template() -> None:
    source = (ROOT / "tasks" / "sizes.py").read_text()
    handed = [name for name in TEMPLATE["variables"]["properties"] if f'"{name}":' in source]
    assert sorted(handed) == ["deadline_seconds", "gpu_class", "gpu_count", "memory"]


def test_every_name_that_is_referred_to_is_there_or_made_by_hand() -> None:
    there = {one["metadata"]["name"] for one in MANIFESTS} | MADE_BY_HAND
    job = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    for pod in [*pods(), job]:
        for container in containers(pod):
            for source in container.get("envFrom", ()):
                assert next(iter(source.values()))["name"] in there
            mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            claim, settings = volume.get("persistentVolumeClaim", {}), volume.get("configMap", {})
            assert {claim.get("claimName"), settings.get("name")} - {None} <= there
    accounts = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ServiceAccount"}
    # The second one is that of the pods which the reconciler makes.
    assert {pod["serviceAccountName"] for pod in pods()} | {"empelt-job", "empelt-instance"} == accounts


def test_the_mounted_catalog_is_one_that_is_read(tmp_path: Path) -> None:
    """Every pod mounts the same keys; made of the files that base.yaml names, they are the catalog of the settings."""
    job = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    mounted = [
        volume["configMap"] for pod in [*pods(), job] for volume in pod["volumes"] if volume["name"] == "catalog"
    ]
    assert len(mounted) == 3
    assert all(one == mounted[0] for one in mounted)
    named = dict(re.findall(r"--from-file=(\S+?\.yaml)=(\S+)", (FOLDER / "base.yaml").read_text()))
    named["qwen3-8b.yaml"] = "deployments/catalog/qwen3-8b.yaml"
    for item in mounted[0]["items"]:
        place = tmp_path / item["path"]
        place.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / named[item["key"]], place)
    settings = next(one for one in MANIFESTS if one["kind"] == "ConfigMap")["data"]
    assert list(load_catalog(tmp_path, [settings["EMPELT_FAMILIES"]]).families) == ["qwen3-8b"]
    assert [one.name for one in load_classes(tmp_path)] == ["cpu", "l40s"]


def test_the_family_of_the_example_fits_its_classes() -> None:
    classes = [Document(path).parse(DeviceClass) for path in (FOLDER / "classes").glob("*.yaml")]
    serving = load_catalog(ROOT / "deployments" / "catalog", ["qwen3-8b"]).family("qwen3-8b").serving
    size = 8_190_735_360  # Qwen3-8B
    assert class_for_merge(classes, Weights(size, "bfloat16"), "task_arithmetic", models=6).name == "cpu"
    assert class_for_serving(classes, size, serving.dtype, kv_mib=serving.kv_mib).name == "l40s"


def test_settings_are_ours_and_no_secret_is_written_down() -> None:
    settings = next(one for one in MANIFESTS if one["kind"] == "ConfigMap")["data"]
    ours = {name.removeprefix("EMPELT_").lower() for name in settings if name.startswith("EMPELT_")}
    assert ours <= Settings.model_fields.keys()
    assert not [one for one in MANIFESTS if one["kind"] == "Secret"]
    for pod in pods():
        for container in containers(pod):
            for variable in container.get("env", ()):
                secret = variable["name"].endswith(("URL", "TOKEN", "AUTH", "AUTH_STRING"))
                assert secret == ("valueFrom" in variable), variable["name"]


def test_every_container_runs_as_nobody_special_with_a_limit_and_what_stays_up_is_probed() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
        without = [one["name"] for one in pod["containers"] if "livenessProbe" not in one]
        assert without in ([], ["agent"])  # it has no port: its heartbeat is in the ledger


def test_each_deployment_has_a_budget_and_the_policies_choose_pods_that_are_there() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in MANIFESTS if one["kind"] == "Deployment"]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in MANIFESTS if one["kind"] == "PodDisruptionBudget"]
    assert sorted(map(str, labels)) == sorted(map(str, budgets))
    policies = [one for one in MANIFESTS if one["kind"] == "NetworkPolicy"]
    assert any(
        one["spec"]["podSelector"] == {} and "ingress" not in one["spec"] for one in policies
    )  # nothing by default
    serving = next(one for one in policies if one["metadata"]["name"] == "gateway")
    assert serving["spec"]["podSelector"]["matchLabels"] in labels
    assert "Egress" in serving["spec"]["policyTypes"]
    ports = {port["port"] for rule in serving["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 5432}


def of(kind: str, name: str, file: str = "instances") -> dict[str, Any]:
    found = yaml.safe_load_all((FOLDER / f"{file}.yaml").read_text())
    return next(one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))


def test_the_role_grants_what_the_reconciler_asks_for_and_nothing_else() -> None:
    rules = of("Role", "empelt-reconciler")["rules"]
    granted = {
        Permission(g, r, v) for one in rules for g in one["apiGroups"] for r in one["resources"] for v in one["verbs"]
    }
    assert granted == set(NEEDED)
    binding = of("RoleBinding", "empelt-reconciler")
    assert binding["roleRef"]["name"] == "empelt-reconciler"
    bound = binding["subjects"][0]["name"]
    assert of("Deployment", "empelt-serving")["spec"]["template"]["spec"]["serviceAccountName"] == bound


def test_the_token_is_in_the_one_container_that_needs_it() -> None:
    pod = of("Deployment", "empelt-serving")["spec"]["template"]["spec"]
    holders = [one["name"] for one in pod["containers"] if "account" in {m["name"] for m in one["volumeMounts"]}]
    assert holders == ["agent"]
    assert "serviceAccountToken" in pod["volumes"][-1]["projected"]["sources"][0]


def test_the_reconcilers_settings_are_ours_and_say_the_same_place_as_the_manifests() -> None:
    agent = of("Deployment", "empelt-serving")["spec"]["template"]["spec"]["containers"][0]
    told = {one["name"].removeprefix("EMPELT_").lower(): one.get("value", "") for one in agent["env"]}
    assert told.keys() <= Settings.model_fields.keys()
    shared = of("ConfigMap", "empelt-settings", "base")["data"]
    settings = Settings(
        **{k.removeprefix("EMPELT_").lower(): v for k, v in shared.items() if k.startswith("EMPELT_")} | told
    )
    assert settings.endpoint == "kubernetes"
    assert settings.cluster_namespace == of("Namespace", "empelt", "base")["metadata"]["name"]
    assert settings.cluster_store_claim == of("PersistentVolumeClaim", "empelt-store", "base")["metadata"]["name"]
    mounted = {one["name"]: one["mountPath"] for one in agent["volumeMounts"]}
    assert str(settings.store) == mounted["store"] == ClusterPlan().store
    assert settings.routes == Path(mounted["run"]) / "routes.json"
    gateway = of("Deployment", "empelt-serving")["spec"]["template"]["spec"]["containers"][1]
    assert gateway["startupProbe"]["exec"]["command"][-1] == str(settings.routes)


def test_the_policies_reach_the_pods_that_the_reconciler_makes() -> None:
    deployment, _ = made()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    policy = of("NetworkPolicy", "instances")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert "egress" not in policy  # named in policyTypes, so that nothing goes out
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    port = deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert [one["port"] for one in rule["ports"]] == [port]
    (asker,) = rule["from"]
    serving = of("Deployment", "empelt-serving")["spec"]["template"]["metadata"]["labels"]
    assert asker["podSelector"]["matchLabels"].items() <= serving.items()
    out = of("NetworkPolicy", "serving-to-cluster")["spec"]["egress"][0]
    assert out["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert [one["port"] for one in out["ports"]] == [port]
    # What may talk to the gateway and to Prefect is chosen by this name: a model's server must not have it.
    assert labels["app.kubernetes.io/name"] != "empelt"
    accounts = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ServiceAccount"}
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] in accounts


@pytest.mark.parametrize("path", sorted((FOLDER / "classes").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_examples_of_classes_are_classes(path: Path) -> None:
    assert Document(path).parse(DeviceClass).name == path.stem


@pytest.mark.parametrize("path", [*FILES, *sorted(FOLDER.glob("*-values.yaml"))], ids=lambda p: p.name)
def test_what_was_never_run_says_so(path: Path) -> None:
    assert "NEVER RUN" in path.read_text()


def test_the_server_of_the_chart_has_all_five_in_redis() -> None:
    values = yaml.safe_load((FOLDER / "prefect-server-values.yaml").read_text())
    for part in (values["server"], values["backgroundServices"]):
        named = {one["name"]: one["value"] for one in part["env"]}
        assert sum(value.startswith("prefect_redis") for value in named.values()) == 4
        assert part["extraEnvVarsSecret"] == "prefect-redis"  # the fifth: the address of Redis
    assert values["secret"]["create"] is False
