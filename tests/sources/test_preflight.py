"""The pre-flight lets a release pass, or refuses it with everything that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.domain.errors import HubUnavailable, ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.hub import HubSource
from tasks.sources.preflight import PreflightReport, preflight
from tests.local_hub.hub_fixtures import ARCHITECTURE, Push, RunningHub, TinyModel, free_port

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
Change = Callable[[TinyModel], object]


@pytest.fixture
def base(push: Push) -> ModelRef:
    return push("base")


def look(source: HubSource, release: ModelRef, base: ModelRef) -> PreflightReport:
    return preflight(source, release, base, allowed_architectures=[ARCHITECTURE, "Qwen3ForCausalLM"])


def refusal(source: HubSource, release: ModelRef, base: ModelRef) -> str:
    with pytest.raises(ModelRefused) as refused:
        look(source, release, base)
    assert str(release) in str(refused.value)
    assert str(base) in str(refused.value)
    return "\n".join(refused.value.problems)


def test_a_sound_release_passes_and_its_costs_are_told(source: HubSource, push: Push, base: ModelRef) -> None:
    model = TinyModel(fill=3)
    model.others = {"training_args.bin": b"x" * 1000, "original/consolidated.00.pth": b"x"}
    report = look(source, push("instruct", model), base)
    assert report.architectures == (ARCHITECTURE,)
    assert (report.tensors, report.parameters) == (4, 16 * 8 + 2 * 8 * 16 + 8)
    assert report.shards == (FIRST, SECOND)
    assert report.ignored_weights == ("original/consolidated.00.pth", "training_args.bin")
    assert report.needed_bytes == -(-report.download_bytes * 11 // 10)
    assert 500 < report.download_bytes < 3000


def test_other_shard_boundaries_and_another_transformers_version_do_not_matter(
    source: HubSource, push: Push, base: ModelRef
) -> None:
    model = TinyModel(shards=1, merges=["a b", "c d"])
    del model.config["rope_theta"], model.config["tie_word_embeddings"], model.config["head_dim"]
    model.config |= {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}, "max_position_embeddings": 99}
    assert look(source, push("instruct", model), base).shards == ("model.safetensors",)


def test_chat_tokens_may_be_added_and_reserved_ones_named(source: HubSource, push: Push, base: ModelRef) -> None:
    model = TinyModel()
    model.tokens[1] = "<|im_start|>"
    model.tokens.append("<think>")
    model.added |= {1: "<|im_start|>", 11: "<think>"}
    report = look(source, push("instruct", model), base)
    assert report.added_tokens == ("<think>",)
    assert report.renamed_tokens == ("<r0> -> <|im_start|>",)


CONFIGS: list[tuple[dict[str, object], str]] = [
    ({"hidden_size": 12}, "hidden_size is 12 but 8 in the base"),
    ({"num_hidden_layers": 3}, "num_hidden_layers is 3 but 2 in the base"),
    ({"num_key_value_heads": 2}, "num_key_value_heads is 2 but 1 in the base"),
    ({"head_dim": 8}, "head_dim is 8 but 4 in the base"),
    ({"intermediate_size": 17}, "intermediate_size is 17 but 16 in the base"),
    ({"vocab_size": 18}, "vocab_size is 18 but 16 in the base"),
    ({"rope_theta": 5e5}, "rope is {'rope_theta': 500000.0, 'rope_type': 'default'} but {'rope_theta': 10000.0"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings is False but True in the base"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is {'quant_method': 'gptq'}"),
    ({"auto_map": {"AutoModel": "m.M"}}, "auto_map is {'AutoModel': 'm.M'}"),
    ({"a": [{"trust_remote_code": True}]}, "a[0].trust_remote_code is True"),
]


@pytest.mark.parametrize(("change", "told"), CONFIGS, ids=[next(iter(change)) for change, _ in CONFIGS])
def test_a_config_that_differs_is_refused_with_both_values(
    source: HubSource, push: Push, base: ModelRef, change: dict[str, object], told: str
) -> None:
    model = TinyModel()
    model.config |= change
    assert f"config.json of {(ref := push('instruct', model))}: {told}" in refusal(source, ref, base)


def test_a_foreign_architecture_is_refused(source: HubSource, push: Push, base: ModelRef) -> None:
    model = TinyModel()
    model.config["architectures"] = ["MambaForCausalLM"]
    told = refusal(source, push("instruct", model), base)
    assert "architectures is ['MambaForCausalLM'] but ['LlamaForCausalLM'] in the base" in told
    assert "the family allows ['LlamaForCausalLM', 'Qwen3ForCausalLM']" in told


def test_a_wrong_parents_tokenizer_is_refused_with_the_first_ids_and_the_count(
    source: HubSource, push: Push, base: ModelRef
) -> None:
    model = TinyModel(tokens=["<s>", "<r0>", "<r1>", *"bacdefhg"], merges=[["a", "b"], ["c", "e"]])
    told = refusal(source, push("instruct", model), base)
    assert "4 of 11 ids mean another token; the first: 3: 'b' but 'a' in the base, 4: 'a' but 'b' in the base" in told
    assert "merges differ (2, 2 in the base); the first at 1: ('c', 'e') but ('c', 'd') in the base" in told


def test_a_tokenizer_with_fewer_more_or_homeless_ids_is_refused(source: HubSource, push: Push, base: ModelRef) -> None:
    fewer = TinyModel(tokens=["<s>", "<r0>", "<r1>", *"abcdefg"])
    assert "1 ids of the base are missing; the first: 10: 'h'" in refusal(source, push("fewer", fewer), base)
    more = TinyModel(tokens=["<s>", "<r0>", "<r1>", *"abcdefghi"])
    assert "1 ids are new and not added tokens; the first: 11: 'i'" in refusal(source, push("more", more), base)
    homeless = TinyModel()
    homeless.added[16] = "<far>"
    assert "no row in an embedding of 16; the first: [16]" in refusal(source, push("homeless", homeless), base)


def test_a_missing_shard_is_refused_by_name(source: HubSource, push: Push, base: ModelRef) -> None:
    ref = push("instruct", change=lambda folder: (folder / SECOND).unlink())
    told = refusal(source, ref, base)
    assert f"{SECOND}: named by {INDEX} but not there" in told
    assert "2 tensors of the base are missing; the first: model.layers.1" in told


def test_a_truncated_shard_is_refused_with_both_sizes(source: HubSource, push: Push, base: ModelRef) -> None:
    sizes: list[int] = []

    def truncate(folder: Path) -> None:
        content = (folder / SECOND).read_bytes()
        sizes.append(len(content))
        (folder / SECOND).write_bytes(content[:-100])

    told = refusal(source, push("instruct", change=truncate), base)
    assert f"{SECOND} of" in told
    assert f"truncated: {sizes[0] - 100} bytes, but its header describes {sizes[0]}" in told


@pytest.mark.parametrize("length", [0, 5, 40])
def test_a_shard_cut_within_its_header_is_refused(source: HubSource, push: Push, base: ModelRef, length: int) -> None:
    def cut(folder: Path) -> None:
        (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:length])

    assert FIRST in refusal(source, push("instruct", change=cut), base)


TENSORS: list[tuple[Change, str]] = [
    (lambda m: m.tensors.pop("model.norm.weight"), "1 tensors of the base are missing; the first: model.norm.weight"),
    (lambda m: m.tensors.update({"lm_head.weight": (16, 8)}), "1 tensors are not in the base; the first: lm_head"),
    (lambda m: m.tensors.update({"model.norm.weight": (9,)}), "model.norm.weight is (9,) but (8,) in the base"),
    (lambda m: setattr(m, "dtype", "F16"), "4 dtypes differ; the first: model.embed_tokens.weight is F16 but BF16"),
]


@pytest.mark.parametrize(("change", "told"), TENSORS, ids=["missing", "extra", "shape", "dtype"])
def test_tensors_that_differ_are_refused_by_name(
    source: HubSource, push: Push, base: ModelRef, change: Change, told: str
) -> None:
    model = TinyModel()
    change(model)
    assert told in refusal(source, push("instruct", model), base)


def test_an_index_that_disagrees_with_the_headers_is_refused(source: HubSource, push: Push, base: ModelRef) -> None:
    def swap(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"]["model.norm.weight"] = FIRST
        (folder / INDEX).write_text(json.dumps(index))

    told = refusal(source, push("instruct", change=swap), base)
    assert f"1 tensors, the first model.norm.weight, in the index but not in {FIRST}" in told


def test_custom_code_and_pickled_weights_are_refused(source: HubSource, push: Push, base: ModelRef) -> None:
    def pickled(folder: Path) -> None:
        for shard in folder.glob("*.safetensors*"):
            shard.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"x")
        (folder / "modeling_x.py").write_text("")
        (folder / "processor_config.json").write_text(json.dumps({"auto_map": {}}))

    told = refusal(source, push("instruct", change=pickled), base)
    assert "pytorch_model.bin; only *.safetensors are read" in told.replace("modeling_x.py, ", "")
    assert "modeling_x.py of" in told
    assert "processor_config.json of" in told


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_broken_config_or_tokenizer_is_refused_by_name(
    source: HubSource, push: Push, base: ModelRef, content: bytes
) -> None:
    for path in ("config.json", "tokenizer.json", INDEX):
        ref = push("instruct", change=lambda folder, path=path: (folder / path).write_bytes(content))
        assert f"{path} of {ref}" in refusal(source, ref, base)


def test_a_tokenizer_of_another_structure_is_refused_and_not_a_crash(
    source: HubSource, push: Push, base: ModelRef
) -> None:
    broken = json.dumps({"model": {"vocab": {"a": "x"}}, "added_tokens": [3]}).encode()
    ref = push("instruct", change=lambda folder: (folder / "tokenizer.json").write_bytes(broken))
    assert f"tokenizer.json of {ref}: not the structure" in refusal(source, ref, base)


def test_all_problems_are_told_at_once(source: HubSource, push: Push, base: ModelRef) -> None:
    model = TinyModel(dtype="F16", tokens=["<s>", "<r0>", "<r1>", *"hgfedcba"])
    model.config |= {"architectures": ["X"], "hidden_size": 12, "auto_map": {"A": "b"}}
    told = refusal(source, push("instruct", model, lambda folder: (folder / SECOND).unlink()), base)
    for part in ("auto_map", "architectures", "hidden_size", "dtypes differ", "ids mean another", "not there"):
        assert part in told


def test_the_store_of_the_hub_is_only_read(hub: RunningHub, source: HubSource, push: Push, base: ModelRef) -> None:
    model = TinyModel()
    model.config["hidden_size"] = 12
    ref = push("instruct", model)
    before = sorted((path, path.stat().st_mtime_ns) for path in hub.root.rglob("*"))
    refusal(source, ref, base)
    assert sorted((path, path.stat().st_mtime_ns) for path in hub.root.rglob("*")) == before


def test_a_source_without_an_answer_decides_nothing(base: ModelRef) -> None:
    with pytest.raises(HubUnavailable):
        look(HubSource(f"http://127.0.0.1:{free_port()}", timeout_seconds=5), base, base)
