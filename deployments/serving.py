"""The agent and the gateway, wired to this installation's ledger, store and launcher."""

import signal
import sys
import threading

import psutil
from pydantic import ValidationError

from tasks.domain.errors import InputError
from tasks.doors import open_ledger, open_store
from tasks.endpoints.agent import Agent
from tasks.endpoints.cluster.client import open_cluster
from tasks.endpoints.cluster.objects import ClusterPlan
from tasks.endpoints.cluster.reconciler import Reconciler
from tasks.endpoints.gateway_config import GatewayConfig
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.limits import Limits
from tasks.endpoints.placement import Device
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.supervisor import run_gateway
from tasks.logs import set_up_logging
from tasks.settings import LAUNCHER, Settings, settings
from tasks.settings_layers import refusal


def run_agent_here(chosen: Settings) -> None:
    """Make desired state true until SIGTERM."""
    set_up_logging(chosen)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    made = reconciler_of(chosen) if chosen.endpoint == "kubernetes" else agent_of(chosen)
    made.run(stop)


def agent_of(chosen: Settings) -> Agent:
    """The agent of this host."""
    # The rest is for the operating system, the server and the workers.
    memory = chosen.device_memory_gib << 30 or int(psutil.virtual_memory().total * 0.8)
    return Agent(
        name="local",
        state=open_ledger(),
        launcher=LauncherProcess(
            python=chosen.serving_python,
            script=LAUNCHER,
            socket=chosen.run / "launcher.sock",
            logs=chosen.logs,
            supervised=True,
        ),
        artifacts=open_store(),
        run_folder=chosen.run,
        routes=chosen.routes,
        gateway=chosen.gateway_url,
        gateway_key=chosen.own_key,
        devices=[Device(chosen.device, chosen.device, memory)],
        profile=ServingProfile(device=chosen.device),
        drain_seconds=chosen.drain_seconds,
    )


def reconciler_of(chosen: Settings) -> Reconciler:
    """The agent of a cluster.

    Raises:
        InputError: the client is not installed, or no cluster is named.
    """
    plan = ClusterPlan(
        namespace=chosen.cluster_namespace,
        installation=chosen.cluster_installation,
        serving_image=chosen.cluster_serving_image,
        pipeline_image=chosen.cluster_pipeline_image,
        store_claim=chosen.cluster_store_claim,
        store=str(chosen.store),
        node_class=chosen.cluster_node_class,
        gpus=chosen.cluster_gpus,
        cpu=chosen.cluster_cpu,
        memory_gib=chosen.cluster_memory_gib,
        shared_memory_gib=chosen.cluster_shared_memory_gib,
        room_seconds=chosen.cluster_room_seconds,
        start_seconds=chosen.cluster_start_seconds,
    )
    return Reconciler(
        name="local",
        state=open_ledger(),
        client=open_cluster(namespace=plan.namespace, manager=f"empelt-{plan.installation}"),
        plan=plan,
        artifacts=open_store(),
        routes=chosen.routes,
        gateway=chosen.gateway_url,
        gateway_key=chosen.own_key,
        profile=ServingProfile(device=chosen.device),
        drain_seconds=chosen.drain_seconds,
    )


def run_gateway_here() -> None:
    """Answer people until SIGTERM. SIGHUP: by new settings, with no request lost."""
    set_up_logging(settings())
    run_gateway(gateway_config, command=(sys.executable, "-m", "deployments.gateway_worker"))


def gateway_config() -> GatewayConfig:
    """What the settings say of the gateway, read anew each time.

    Raises:
        InputError: they cannot be used: every problem is told.
    """
    settings.cache_clear()
    try:
        chosen = settings()
    except ValidationError as error:
        raise InputError("the settings cannot be used", problems=refusal(error)) from None
    return GatewayConfig(
        routes=chosen.routes,
        host=chosen.gateway_host,
        port=chosen.gateway_port,
        keys=chosen.gateway_keys.get_secret_value() if chosen.gateway_keys else "",
        own_key=chosen.own_key,
        limits=Limits(
            body_bytes=chosen.gateway_max_body_mib << 20,
            upload_seconds=chosen.gateway_upload_seconds,
            request_seconds=chosen.gateway_request_seconds,
            idle_seconds=chosen.gateway_idle_seconds,
            in_flight=chosen.gateway_in_flight,
            hold_seconds=chosen.gateway_hold_seconds,
        ),
        retry=chosen.gateway_retry,
        drain_seconds=chosen.drain_seconds,
        metrics_host=chosen.metrics_host,
        metrics_port=chosen.gateway_metrics_port,
    )
