"""Proofs that what answers is the model that was judged: asked again what it said then, wherever it matters.

What the candidate says is recorded when it is judged. It is asked again on the staged instance, before any traffic, and
through the public address after the switch, by the channel's name and by the artifact's. It must be what was recorded,
and where that can be told, it must not be what the model before it says.
"""

from collections.abc import Sequence

from tasks.domain.errors import WrongModel
from tasks.domain.models import ChannelState, Digest
from tasks.domain.outputs import ReferenceOutputs, measured_facts, reference_key
from tasks.domain.prompts import prompts_for
from tasks.domain.proof import Proof, nothing_on_record, prove
from tasks.doors import open_ledger
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.protocol import Ready
from tasks.settings import settings


def record_outputs(ready: Ready, languages: Sequence[str]) -> ReferenceOutputs:
    """What the staged model says to the fixed prompts: recorded now, or held against what is on record.

    Raises:
        WrongModel: it is on record with other answers. The recorded ones stay.
        LogprobsMissing: the server gives no log-probabilities.
        EndpointUnavailable: it does not answer.
    """
    key = reference_key(ready.digest, ready.serving)
    known = open_ledger().outputs_of(key)
    if known is None:
        heard = ask_outputs(ready.base_url, ready.model, prompts_for(languages), key=settings().own_key)
        facts = measured_facts(ready.serving)
        found = ReferenceOutputs(key=key, artifact_digest=ready.digest, facts=facts, answers=heard.answers)
        if open_ledger().record_outputs(found):
            return found
        known = open_ledger().outputs_of(key) or found  # another run was first: what it heard counts
    verify_staged(ready, previous=None)
    return known


def verify_staged(ready: Ready, *, previous: Digest | None) -> Proof:
    """That the staged instance is the judged model, asked by its pinned name.

    Args:
        ready: the staged instance.
        previous: artifact that the channel serves now; None where it serves nothing.

    Raises:
        WrongModel: it is not; everything that differs is listed.
        LogprobsMissing: the server gives no log-probabilities.
        EndpointUnavailable: it does not answer.
    """
    known = open_ledger().outputs_of(reference_key(ready.digest, ready.serving))
    if known is None:
        return nothing_on_record(ready.digest, ready.serving)
    return _asked_again(known, ready.base_url, ready.model, previous=previous)


def verify_public(state: ChannelState) -> Proof:
    """That the gateway's public address answers with the judged model, by the channel's name and the artifact's.

    While another artifact is tried on a part of the channel's requests, by the artifact's name alone: an answer under
    the channel's may rightly be the other one's.

    Raises:
        WrongModel: it does not; everything that differs is listed.
        LogprobsMissing: the server gives no log-probabilities.
        EndpointUnavailable: it does not answer.
    """
    digest, up = state.artifact_digest, staged_now(state.channel, state.artifact_digest)
    if up is None:
        return Proof(digest, unproven=f"no agent says that it runs {digest[:12]} for {state.channel}")
    serving = up.serving
    known = open_ledger().outputs_of(reference_key(digest, serving))
    if known is None:
        return nothing_on_record(digest, serving)
    proof, url = nothing_on_record(digest, serving), settings().gateway_url
    pinned = f"{state.channel}@{digest[:12]}"
    for model in (pinned,) if open_ledger().canary_of(state.channel) else (state.channel, pinned):
        try:
            proof = _asked_again(known, url, model, generation=state.generation, previous=state.previous_digest)
        except WrongModel:
            if model == state.channel and open_ledger().canary_of(state.channel):
                continue  # it began while it was asked
            now = open_ledger().channel(state.channel)
            if now is None or now.generation == state.generation:
                raise
            return Proof(digest, unproven=f"{state.channel} has moved on to generation {now.generation} meanwhile")
    return proof


def staged_now(channel: str, digest: Digest) -> Ready | None:
    """The instance of this artifact that is up for the channel, live or not, by what the agents say."""
    for one in open_ledger().instances():
        if (one.channel, one.digest, one.state) == (channel, digest, "ready"):
            return Ready(settings().gateway_url, one.model_name, digest, one.serving)
    return None


def _asked_again(
    known: ReferenceOutputs,
    base_url: str,
    model: str,
    *,
    generation: int | None = None,
    previous: Digest | None = None,
) -> Proof:
    """Ask what is on record once more, and compare."""
    heard = ask_outputs(base_url, model, known.answers, key=settings().own_key)
    before = open_ledger().outputs_of(reference_key(previous, known.facts)) if previous else None
    return prove(
        known,
        heard.answers,
        where=f"for {model} at {base_url}",
        served_by=heard.served_by,
        generation=generation,
        previous=previous,
        before=before,
    )
