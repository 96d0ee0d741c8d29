from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.errors import UsageError
from hfmem.hub.reference import HubRef, LocalPath, parse_reference, with_revision

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", HubRef("gpt2")),
        (" Qwen/Qwen3-8B\n", HubRef("Qwen/Qwen3-8B")),
        ("org/name@v1.0", HubRef("org/name", "v1.0")),
        (f"org/name@{COMMIT}", HubRef("org/name", COMMIT)),
        ("org/name@refs/pr/7", HubRef("org/name", "refs/pr/7")),
        ("org/name:Q4_K_M", HubRef("org/name", None, None, "Q4_K_M")),
        ("org/name@main:Q8_0", HubRef("org/name", "main", None, "Q8_0")),
        ("hf.co/org/name:Q4_K_M", HubRef("org/name", None, None, "Q4_K_M")),
        ("https://huggingface.co/org/name:Q8_0", HubRef("org/name", None, None, "Q8_0")),
        ("org/name/sub/model-Q4.gguf", HubRef("org/name", None, "sub/model-Q4.gguf")),
        ("hf://org/name", HubRef("org/name")),
        ("hf://models/org/name@v2", HubRef("org/name", "v2")),
        ("hf://org/name@v2/dir/x.safetensors", HubRef("org/name", "v2", "dir/x.safetensors")),
        ("org/name@feature/x", HubRef("org/name", "feature/x")),
        ("org/name@release/v1.0", HubRef("org/name", "release/v1.0")),
        ("org/name@main/config.json", HubRef("org/name", "main")),
        ("org/name@v1/sub/model.safetensors", HubRef("org/name", "v1", "sub/model.safetensors")),
        ("hf://org/name@feature%2Fx", HubRef("org/name", "feature/x")),
        ("hf://gpt2", HubRef("gpt2")),
        ("https://huggingface.co/org/name", HubRef("org/name")),
        ("https://huggingface.co/org/name/", HubRef("org/name")),
        ("https://huggingface.co/gpt2", HubRef("gpt2")),
        ("https://huggingface.co/gpt2/tree/main", HubRef("gpt2", "main")),
        ("https://huggingface.co/models/org/name", HubRef("org/name")),
        ("https://huggingface.co/api/models/org/name", HubRef("org/name")),
        ("https://huggingface.co/org/name?library=vllm#files", HubRef("org/name")),
        ("http://hf.co/org/name/tree/v1", HubRef("org/name", "v1")),
        ("huggingface.co/org/name/tree/main", HubRef("org/name", "main")),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", HubRef("org/name", "refs/pr/1")),
        ("https://huggingface.co/org/name/tree/refs/pr/1", HubRef("org/name", "refs/pr/1")),
        ("https://huggingface.co/org/name/blob/main/config.json", HubRef("org/name", "main")),
        ("https://huggingface.co/org/name/blob/main/a%20b/x.gguf", HubRef("org/name", "main", "a b/x.gguf")),
        ("https://huggingface.co/org/name/resolve/v1/model.safetensors?download=true",
         HubRef("org/name", "v1", "model.safetensors")),
        ("https://huggingface.co/org/name/discussions/3", HubRef("org/name")),
        ("./gpt2", LocalPath("./gpt2")),
        ("../x", LocalPath("../x")),
        ("/models/llama", LocalPath("/models/llama")),
        ("~/models/llama", LocalPath("~/models/llama")),
        (".", LocalPath(".")),
        ("C:\\models\\llama", LocalPath("C:\\models\\llama")),
        ("file:///srv/a%20b", LocalPath("/srv/a b")),
        ("x.safetensors", LocalPath("x.safetensors")),
        ("dir/x.gguf", LocalPath("dir/x.gguf")),
    ],
)  # fmt: skip
def test_what_people_type(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


def test_a_path_that_exists_comes_before_a_repo_id_and_an_address_before_both() -> None:
    def everywhere(_path: str) -> bool:
        return True

    assert parse_reference("org/name", exists=everywhere) == LocalPath("org/name")
    assert parse_reference("gpt2", exists=everywhere) == LocalPath("gpt2")
    assert parse_reference("hf://org/name", exists=everywhere) == HubRef("org/name")
    assert parse_reference("https://hf.co/org/name", exists=everywhere) == HubRef("org/name")
    assert parse_reference("org/name", exists=lambda path: path == "org") == HubRef("org/name")


def test_addresses_of_the_configured_endpoint() -> None:
    mirror = "https://hub.example.com:8443/hf"
    assert parse_reference(mirror + "/org/name/tree/v1", endpoint=mirror) == HubRef("org/name", "v1")
    assert parse_reference("hub.example.com:8443/hf/org/name", endpoint=mirror) == HubRef("org/name")
    with pytest.raises(UsageError, match=r"HF_ENDPOINT=https://hub\.example\.com"):
        parse_reference(mirror + "/org/name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a/b/c", "neither org/name nor a local path"),
        ("a//b", "no"),
        ("org/na me", "no repo id"),
        ("org/name--x", "no repo id"),
        ("org/..", "no repo id"),
        ("-org/name", "no repo id"),
        ("org/name.git", "no repo id"),
        ("org/" + "x" * 97, "no repo id"),
        ("org/café", "no repo id"),
        ("org/name@", "revision"),
        ("org/name@../../api", "revision"),
        ("org/name@a b", "revision"),
        ("hf://datasets/org/name", "dataset, not a model"),
        ("datasets/org/name", "dataset, not a model"),
        ("https://huggingface.co/datasets/org/name", "dataset, not a model"),
        ("https://huggingface.co/spaces/org/name", "Space, not a model"),
        ("https://huggingface.co/", "names no model"),
        ("https://example.com/org/name", "is not the Hub"),
        ("ftp://huggingface.co/org/name", "not understood"),
        ("s3://bucket/x", "not understood"),
        ("https://huggingface.co/org/name/tree/main/original", "folder inside"),
        ("https://huggingface.co/org/name/wiki", "expected"),
        ("org/name\x1b[31m", "control"),
    ],
)
def test_what_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_reference(text)


def test_revision_flag() -> None:
    assert with_revision(HubRef("a/b"), "v1") == HubRef("a/b", "v1")
    assert with_revision(HubRef("a/b", "v1"), "v1") == HubRef("a/b", "v1")
    assert with_revision(LocalPath("./x"), None) == LocalPath("./x")
    with pytest.raises(UsageError, match="exclude each other"):
        with_revision(HubRef("a/b", "v1"), "v2")
    with pytest.raises(UsageError, match="local"):
        with_revision(LocalPath("./x"), "v1")


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        ref = parse_reference(text)
    except UsageError as error:
        assert "\n" not in error.message
    else:
        assert isinstance(ref, HubRef | LocalPath)


#: in ASCII: huggingface_hub 0.34 takes letters of other scripts, which the Hub and its later releases refuse
NAMES = re.compile(r"[A-Za-z0-9]{1,10}(/[A-Za-z0-9][\w.]{0,10}[A-Za-z0-9])?", re.ASCII)


@given(st.from_regex(NAMES, fullmatch=True))
def test_agrees_with_huggingface_hub_on_repo_ids(text: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
        valid = True
    except HFValidationError:
        valid = False
    try:
        assert isinstance(parse_reference("hf://" + text), HubRef)
        ours = True
    except UsageError:
        ours = False
    assert ours == valid


def test_names_are_ascii() -> None:
    with pytest.raises(UsageError):
        parse_reference("hf://org/namª0")
