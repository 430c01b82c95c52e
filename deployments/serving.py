"""The agent and the gateway, wired to this installation's ledger, store and launcher."""

import signal
import threading

import psutil

from tasks.doors import open_ledger, open_store
from tasks.endpoints.agent import Agent
from tasks.endpoints.gateway import run_gateway
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.placement import Device
from tasks.endpoints.profile import ServingProfile
from tasks.logs import set_up_logging
from tasks.settings import LAUNCHER, Settings


def run_agent_here(settings: Settings) -> None:
    """Make desired state true until SIGTERM."""
    set_up_logging(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The rest is for the operating system, the server and the workers.
    memory = settings.device_memory_gib << 30 or int(psutil.virtual_memory().total * 0.8)
    agent = Agent(
        name="local",
        state=open_ledger(),
        launcher=LauncherProcess(
            python=settings.serving_python,
            script=LAUNCHER,
            socket=settings.run / "launcher.sock",
            logs=settings.logs,
            supervised=True,
        ),
        artifacts=open_store(),
        run_folder=settings.run,
        routes=settings.routes,
        gateway=settings.gateway_url,
        devices=[Device(settings.device, settings.device, memory)],
        profile=ServingProfile(device=settings.device),
    )
    agent.run(stop)


def run_gateway_here(settings: Settings) -> None:
    """Answer people until SIGTERM."""
    set_up_logging(settings)
    run_gateway(settings.routes, settings.gateway_host, settings.gateway_port)
