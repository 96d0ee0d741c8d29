"""Parameters without headers: from the config, an index or the Hub's summary. Every number is a product of published shapes."""

from __future__ import annotations

import pytest
from llama_by_hand import ATTENTION, CONFIG, EMBEDDING, LAYERS, MLP, NORM, TOTAL, arch, checkpoint, files

from hfmem.checkpoint.quantization_config import Quantization, parse_quantization
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.parameters import (
    count_parameters,
    stored_dtype,
    with_stored_dtype,
)
from hfmem.records import replace


def test_config_alone() -> None:
    report = count_parameters(arch())
    assert (report.total, report.weights_bytes, report.evidence, report.exact) == (TOTAL, 2 * TOTAL, "config", False)
    assert report.weights_by_dtype == {"BF16": 2 * TOTAL}


def test_config_alone_leaves_a_tied_head_out() -> None:
    assert count_parameters(arch(tie_word_embeddings=True)).weights_bytes == 2 * (TOTAL - EMBEDDING)


def said(**section: object) -> Quantization:
    found = parse_quantization({"config.json": {"quantization_config": section}})
    assert found is not None
    return found


def test_an_unknown_packing_without_headers_says_that_the_size_is_an_upper_bound() -> None:
    report = count_parameters(arch(), quantization=said(quant_method="fancy"))
    assert [note.code for note in report.notes] == ["quantized_size_unknown"]
    assert (report.total, report.weights_bytes) == (TOTAL, 2 * TOTAL)


def test_a_known_packing_without_headers_is_derived() -> None:
    """FP8 with one fp32 scale a matrix for weights and one for inputs; the head is named as an exception."""
    section = said(quant_method="fp8", activation_scheme="static", ignored_layers=["lm_head"])
    report = count_parameters(arch(), quantization=section)
    assert [note.code for note in report.notes] == ["quantized_size_derived"]
    assert report.total == TOTAL
    assert report.weights_by_dtype["F8_E4M3"] == ATTENTION + MLP
    assert report.weights_by_dtype["BF16"] == 2 * (NORM + 2 * EMBEDDING)
    assert report.weights_bytes == sum(report.weights_by_dtype.values()) == sum(report.weights_by_component.values())


def test_layers_that_stay_unquantized() -> None:
    section = said(quant_method="fp8", modules_to_not_convert=["model.layers.1", "lm_head"])
    report = count_parameters(arch(), quantization=section)
    assert report.weights_by_dtype["F8_E4M3"] == (ATTENTION + MLP) // LAYERS


def test_a_size_that_is_known_wins_over_a_derived_one() -> None:
    report = count_parameters(arch(), quantization=said(quant_method="fp8"), total_size=12345678)
    assert (report.weights_bytes, report.evidence, report.notes) == (12345678, "index", ())
    assert sum(report.weights_by_component.values()) == 12345678


@pytest.mark.parametrize(("size", "dtype"), [(2, "BF16"), (4, "F32"), (1, "F8_E4M3")])
def test_a_total_size_tells_the_stored_dtype(size: int, dtype: str) -> None:
    report = count_parameters(arch(), total_size=size * TOTAL)
    assert (report.total, report.weights_bytes, report.evidence) == (TOTAL, size * TOTAL, "index")
    assert report.weights_by_dtype == {dtype: size * TOTAL}
    assert not report.notes


def test_a_total_size_tells_that_a_tied_head_is_stored() -> None:
    report = count_parameters(arch(tie_word_embeddings=True), total_size=2 * TOTAL)
    assert (report.total, report.weights_bytes) == (TOTAL - EMBEDDING, 2 * TOTAL)
    assert not report.notes


def test_a_total_size_that_does_not_fit_is_used_and_said() -> None:
    report = count_parameters(arch(), total_size=2 * TOTAL + 1000)
    assert report.weights_bytes == 2 * TOTAL + 1000
    assert sum(report.weights_by_component.values()) == 2 * TOTAL + 1000
    assert sum(report.weights_by_dtype.values()) == 2 * TOTAL + 1000
    assert [note.code for note in report.notes] == ["weights_size_differs"]


def test_a_total_size_tells_of_a_head_that_is_not_stored() -> None:
    optional = [replace(s, optional=True) if s.component is Component.LM_HEAD else s for s in arch().tensors]
    report = count_parameters(replace(arch(), tensors=tuple(optional)), total_size=2 * (TOTAL - EMBEDDING))
    assert report.total == TOTAL - EMBEDDING  # the config says untied, the files hold no head
    assert not report.notes


def test_synthesised_groups_are_what_the_files_hold() -> None:
    made = {(g.pattern, g.shape, g.boxes) for g in synthesise(arch(), "fp16")}
    assert made == {(g.pattern, g.shape, g.boxes) for g in checkpoint(files()).groups}
    assert {g.dtype for g in synthesise(arch(), "fp16")} == {"F16"}


def test_a_config_without_dtype_takes_the_files() -> None:
    silent = read_architecture({key: value for key, value in CONFIG.items() if key != "torch_dtype"})
    stored = checkpoint([*files(dtype="F16"), ("model.x", "F32", (1,))]).groups
    assert stored_dtype(stored) == "F16"
    assert not silent.dtype_given
    assert with_stored_dtype(silent, stored).dtype == "F16"
    assert with_stored_dtype(arch(), stored).dtype == "BF16"
    assert with_stored_dtype(silent).dtype == "F32"
    assert with_stored_dtype(silent, quantized=True).dtype == "BF16"
    assert stored_dtype(checkpoint([("w", "I32", (4,))]).groups) is None


def test_a_dtype_that_nothing_names_is_said() -> None:
    silent = read_architecture({key: value for key, value in CONFIG.items() if key != "torch_dtype"})
    report = count_parameters(silent)
    assert [note.code for note in report.notes] == ["dtype_assumed"]
    assert report.weights_bytes == 4 * TOTAL
    assert not count_parameters(silent, total_size=2 * TOTAL).notes  # an index tells the bytes
    assert not count_parameters(arch()).notes
