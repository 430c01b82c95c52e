"""The agent, the gateway and the endpoint over the real launcher and real vLLM, with two tiny models."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from tasks.domain.models import ModelRef
from tasks.domain.outputs import compare, tell_apart
from tasks.domain.prompts import prompts_for
from tasks.endpoints.agent import Agent
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.placement import GIB, Device
from tasks.endpoints.profile import ServingProfile

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("EMPELT_SERVING_PYTHON", ROOT / ".venv-serving/bin/python"))
LAUNCHER = ROOT / "infra/serving/launcher.py"
RELEASE = ModelRef(repo_id="lab/instruct-v2", revision="2" * 40)

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no serving environment at {PYTHON}; `make setup` makes it"),
]


@pytest.fixture
def tiny(store, tmp_path):
    """A Llama of 0.1 M parameters; another seed is another model with other answers."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def _tiny(seed):
        folder = tmp_path / f"tiny-{seed}"
        raw = tokenizers.Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        raw.train_from_iterator(
            ["kaixo"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
        )
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
        made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        made.save_pretrained(folder)
        torch.manual_seed(seed)
        shape = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
        heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
        settings = transformers.LlamaConfig(**shape, **heads, bos_token_id=0, eos_token_id=1)
        transformers.LlamaForCausalLM(settings).save_pretrained(folder)
        return store.adopt(folder)

    return _tiny


def test_a_real_model_is_staged_switched_to_and_rolled_back(tiny, store, ledger, gateway):
    blue, green = tiny(1), tiny(2)
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    launcher = LauncherProcess(
        PYTHON, LAUNCHER, socket=folder / "l.sock", logs=folder / "logs", arguments=("--die-with-parent",)
    )
    profile = ServingProfile(max_model_len=256, max_num_seqs=8)
    endpoint = LocalEndpoint(ledger, gateway=gateway.url, profile=profile)
    agent = Agent(
        name="local",
        state=ledger,
        launcher=launcher,
        artifacts=store,
        run_folder=folder / "run",
        routes=gateway.routes,
        gateway=gateway.url,
        devices=[Device("cpu", "cpu", 32 * GIB)],
        profile=profile,
    )
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        texts, said = {}, {}
        for generation, artifact in enumerate((blue, green), start=1):
            wanted = endpoint.stage(artifact, channel="eu", owner="t", release=RELEASE, lease_seconds=900)
            ready = endpoint.wait_ready(wanted, deadline_seconds=240)
            staged = ask_outputs(gateway.url, ready.model, prompts_for(["eu"]))
            said[artifact.digest] = staged.answers
            switch(ledger, artifact, generation - 1)
            endpoint.wait_visible("eu", generation=generation, deadline_seconds=60)
            public = ask_outputs(gateway.url, "eu", staged.answers)
            found = compare(staged.answers, public.answers, 0.01)
            assert (found.problems, public.served_by) == ((), ((artifact.digest, str(generation)),))
            assert found.compared > 8 * 20
            mapped = {one.name: one.mapped for one in ledger.instances()}[f"eu-{artifact.digest[:12]}"]
            assert mapped == "weights mapped in 3 processes"  # server, engine and worker, forked from one another
            answer = gateway.ask(prompt="kaixo", max_tokens=16, temperature=0)
            assert answer.json()["model"] == ready.model, "the answer itself must name the artifact"
            assert answer.headers["x-empelt-artifact"] == artifact.digest
            texts[artifact.digest] = answer.json()["choices"][0]["text"]
        assert texts[blue.digest] != texts[green.digest]
        assert tell_apart(said[green.digest], said[blue.digest], 0.01).is_told

        switch(ledger, blue, 2)
        seen = endpoint.wait_visible("eu", generation=3, deadline_seconds=60)
        back = gateway.ask(prompt="kaixo", max_tokens=16, temperature=0)
        assert back.json()["choices"][0]["text"] == texts[blue.digest]
        assert seen.seconds < 10, "the previous instance was not warm"

        body = {"prompt": "kaixo", "max_tokens": 8, "temperature": 0, "stream": True}
        assert gateway.ask(**body).text.endswith("data: [DONE]\n\n")
        echoed = gateway.ask(prompt="kaixo", max_tokens=1, temperature=0, echo=True, logprobs=1)
        assert echoed.json()["choices"][0]["logprobs"]["token_logprobs"]
    finally:
        stop.set()
        thread.join(30)
        launcher.client.shutdown()
        launcher._started.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def switch(ledger, artifact, expected):
    ledger.switch_channel(
        "eu", digest=artifact.digest, release=RELEASE, target="eu", family="demo", expected_generation=expected
    )
