"""What makes two folders the same model, and what a merge says about where it came from."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.lineage import Lineage, canonical, content_digest, fingerprint, matters, parent_roles
from tasks.domain.models import FileDigest

IDENTITY = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
]
BESIDE = ["README.md", "LICENSE", "NOTICE", ".gitattributes", "USE_POLICY.md", "pytorch_model.bin", "training_args.bin"]


def file(path: str, content: str = "") -> FileDigest:
    return FileDigest(path=path, sha256=hashlib.sha256(f"{path}:{content}".encode()).hexdigest(), size=len(content))


MODEL = [file(path) for path in IDENTITY]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_digest_of_a_known_folder_never_changes() -> None:
    # Every store and ledger names models by this. If this test fails, all of them have to be made again.
    known = [
        FileDigest(path="model.safetensors", sha256="a" * 64, size=1),
        FileDigest(path="config.json", sha256="b" * 64, size=1),
        FileDigest(path="README.md", sha256="c" * 64, size=1),
    ]
    expected = hashlib.sha256(f"config.json\0{'b' * 64}\nmodel.safetensors\0{'a' * 64}\n".encode()).hexdigest()
    assert content_digest(known) == expected
    assert expected == "219faf4ba35e4cf73f6fe6d440447c6101c215081706630084cb7eebc297340b"


@pytest.mark.parametrize("path", BESIDE)
def test_a_file_that_says_nothing_about_the_model_does_not_change_its_digest(path: str) -> None:
    assert not matters(path)
    assert content_digest([*MODEL, file(path, "one")]) == content_digest(MODEL)
    assert content_digest([*MODEL, file(path, "two")]) == content_digest(MODEL)


@pytest.mark.parametrize("path", IDENTITY)
def test_any_file_that_decides_what_a_model_says_changes_its_digest(path: str) -> None:
    changed = [file(f.path, "new") if f.path == path else f for f in MODEL]
    without = [f for f in MODEL if f.path != path]
    assert len({content_digest(MODEL), content_digest(changed), content_digest(without)}) == 3


def test_the_same_bytes_under_another_name_are_another_model() -> None:
    weights = "a" * 64
    one = FileDigest(path="model.safetensors", sha256=weights, size=1)
    other = FileDigest(path="weights.safetensors", sha256=weights, size=1)
    assert content_digest([one]) != content_digest([other])


@given(st.permutations(MODEL))
def test_the_order_of_the_files_does_not_matter(files: list[FileDigest]) -> None:
    assert content_digest(files) == content_digest(MODEL)


@pytest.mark.parametrize("path", ["original/config.json", "onnx/model.safetensors", "original/tokenizer.model"])
def test_what_lies_in_a_sub_folder_is_no_part_of_the_model(path: str) -> None:
    assert not matters(path)
    assert content_digest([*MODEL, file(path)]) == content_digest(MODEL)


@pytest.mark.parametrize(
    "paths", [[], ["config.json"], ["config.json", "pytorch_model.bin"], ["sub/model.safetensors"]]
)
def test_files_without_weights_have_no_digest(paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        content_digest([file(path) for path in paths])


@given(st.dictionaries(st.text(), values, max_size=5))
def test_equal_values_have_equal_bytes_however_they_were_built(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical(value) == canonical(backwards)


@given(values, values)
def test_a_fingerprint_tells_apart_what_json_tells_apart(one: Any, other: Any) -> None:
    assert (fingerprint(x=one) == fingerprint(x=other)) is (canonical(one) == canonical(other))


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_names_of_the_parts_belong_to_the_fingerprint(one: str, other: str) -> None:
    assert (fingerprint(a=one, b=other) == fingerprint(a=other, b=one)) is (one == other)


def test_a_fingerprint_is_64_hex_digits_and_never_changes() -> None:
    assert (
        fingerprint(kind="test", text="ñ", number=1.5)
        == "ae660227e69f4da68ec1ca7f52352b4a8c03bdbc6177799cc58c1018422766d7"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_json_has_no_fingerprint(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint(x=value)


def test_one_tuned_base_is_the_parent_tuned(lineage: Callable[..., Lineage], digest: Callable[[str], str]) -> None:
    assert parent_roles(lineage("eu")) == {"instruct": digest("instruct-v2"), "tuned": digest("eu_base")}


def test_several_tuned_bases_are_parents_by_language(
    lineage: Callable[..., Lineage], digest: Callable[[str], str]
) -> None:
    assert parent_roles(lineage("eu", "gl")) == {
        "instruct": digest("instruct-v2"),
        "tuned:eu": digest("eu_base"),
        "tuned:gl": digest("gl_base"),
    }


def test_a_lineage_gives_digest_and_ref_of_each_role(
    lineage: Callable[..., Lineage], digest: Callable[[str], str]
) -> None:
    found = lineage("eu")
    assert found.digest_of("tuned:eu") == digest("eu_base")
    assert str(found.ref_of("base")).startswith("lab/base@")
    with pytest.raises(KeyError):
        found.digest_of("tuned:gl")


def test_a_lineage_survives_json(lineage: Callable[..., Lineage]) -> None:
    found = lineage("eu", "gl")
    assert Lineage.model_validate_json(found.model_dump_json()) == found
