"""Which files of a repository llama.cpp takes, by the rules of its `common/download.cpp` worked out by hand on listings."""

from __future__ import annotations

import pytest

from hfmem.checkpoint.file_groups import fetches
from hfmem.checkpoint.gguf_names import holds_no_model, models, nearest_projector, tagged

LISTING = (
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "m-F16.gguf",
    "m-IQ4_XS.gguf",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-Q4_K_XL.gguf",
)


@pytest.mark.parametrize(
    ("tag", "stem"),
    [
        ("Q4_K_M", "m-Q4_K_M"),
        ("q4_k_m", "m-Q4_K_M"),
        ("Q4_K_XL", "m-UD-Q4_K_XL"),
        ("Q4_XS", "m-IQ4_XS"),  # no word's beginning is asked for
        ("BF16", "BF16/m-BF16"),  # the first part: the others are skipped
        ("F16", "BF16/m-BF16"),  # "F16-" is in its path, which stands first
        ("Q4_K", None),  # a dot or a dash must follow
        ("BF", None),
    ],
)
def test_tags(tag: str, stem: str | None) -> None:
    assert tagged(models(LISTING), tag) == stem


def test_without_a_tag() -> None:
    """Q4_K_M, else Q8_0, else the first; heads and projectors are none of them."""
    heads = ("a-imatrix.gguf", "a-mtp-Q4_K_M.gguf", "dspark-Q4_K_M.gguf", "eagle3-Q8_0.gguf", "mmproj-Q4_K_M.gguf")
    for names, weights in (
        ((*heads, *LISTING, "z-Q8_0.gguf"), ("m-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf")),
        (("b-F32.gguf", "z-q8_0.gguf"), ("z-q8_0.gguf",)),
        (LISTING[:4], LISTING[:2]),
        (heads[:4], ()),
    ):
        found = fetches(dict.fromkeys(names, 1))["llama.cpp"]
        assert found.weights == weights
    assert not holds_no_model(
        "GLM-4.5-Air-MTP-Q8_0"
    )  # a model with its prediction layers: only the small letters name a head


@pytest.mark.parametrize(
    ("model", "projectors", "chosen"),
    [
        ("m-Q4_K_M", ("mmproj-BF16", "mmproj-F16", "mmproj-F32"), "mmproj-BF16"),  # 16 − 4 twice: the first
        ("m-Q4_K_M", ("mmproj-F16", "mmproj-Q8_0"), "mmproj-Q8_0"),  # 8 − 4 is less than 16 − 4
        ("m-BF16", ("mmproj-F32", "mmproj-model-f16"), "mmproj-model-f16"),
        ("Q4/m-Q4_0", ("Q4/mmproj-F32", "mmproj-Q8_0"), "Q4/mmproj-F32"),  # the same folder before the one above
        ("m-Q4_0", ("Q4/mmproj-F16",), None),  # a folder beside or below is not looked into
        ("m-Q4_0", ("mmproj",), "mmproj"),
    ],
)
def test_projectors(model: str, projectors: tuple[str, ...], chosen: str | None) -> None:
    assert nearest_projector(model, projectors) == chosen
