"""The steps of a promotion from its switch on, as they are put on record, and how long the switch took."""

from collections.abc import Mapping

from prefect.runtime import flow_run

from tasks.domain.models import ChannelState
from tasks.doors import open_ledger
from tasks.endpoints.probe import ask_gateway
from tasks.settings import settings


def record_once(
    state: ChannelState, step: str, seconds: float, said: str, figures: Mapping[str, float | None] | None = None
) -> None:
    """Append a step from the switch on; a run that is started again finds it there and appends none."""
    ledger, run_id, began_at, digest = open_ledger(), flow_run.get_id(), state.generation - 1, state.artifact_digest
    if any(known.step == step for known in ledger.promotion_steps(state.channel, digest=digest, generation=began_at)):
        return
    ledger.record_step(
        state.channel,
        step,
        generation=began_at,
        digest=digest,
        ended="done",
        seconds=round(seconds, 3),
        said=said,
        figures=figures,
        flow_run_id=str(run_id) if run_id else None,
    )


def acknowledged_seconds(state: ChannelState) -> float | None:
    """From the end of the last check before a switch to the gateway's acknowledgement, both by the ledger's clock."""
    ledger = open_ledger()
    steps = ledger.promotion_steps(state.channel, digest=state.artifact_digest, generation=state.generation - 1)
    checks = [known.at for known in steps if known.step in ("stage", "verify", "warm") or "canary" in known.step]
    seen = ledger.visible_since(state.channel).get(state.generation)
    return round((seen - max(checks)).total_seconds(), 3) if checks and seen else None


def switch_seconds(state: ChannelState) -> float | None:
    """From the routes' writing to the gateway's first use of them; None where it does not know this switch any more."""
    told = ask_gateway(settings().gateway_url, settings().own_key)
    generation, seconds = told.switches.get(state.channel, (0, 0.0)) if told else (0, 0.0)
    return round(seconds, 4) if generation == state.generation else None


def record_confirmed(state: ChannelState, seconds: float, proof: str = "") -> str:
    """The confirmation, with the two times that are quoted; the sentence that says so."""
    figures = {"acknowledged_seconds": acknowledged_seconds(state), "switch_seconds": switch_seconds(state)}
    said = f"the gateway routes by generation {state.generation}, and {state.artifact_digest[:12]} answered through it"
    record_once(state, "confirm", seconds, f"{said}; {proof}" if proof else said, figures)
    times = ", ".join(f"{name} {value}" for name, value in figures.items())
    return f"{state.channel}: {said} ({times})"
