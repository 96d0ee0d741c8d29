"""Logical weights of whole models: what stays unquantized, scales and buffers, real files."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from quantized_tensors import IN, OUT, Stored, config, logical

from hfmem.checkpoint.merge import merge
from hfmem.checkpoint.quantization import (
    is_buffer,
    logical_groups,
    parse_quantization,
    summarize,
)
from hfmem.checkpoint.safetensors import parse_header


def test_blocks_of_fp8_are_named() -> None:
    weight, *_ = logical(
        {"a.weight": ("F8_E4M3", (576, 7168)), "a.weight_scale_inv": ("F32", (5, 56))},
        config(quant_method="fp8", weight_block_size=[128, 128]),
    )
    assert weight.block == (128, 128)
    weight, *_ = logical({"a.weight": ("F8_E4M3", (512, 256)), "a.weight_scale_inv": ("F32", (4, 2))})
    assert weight.block == (128, 128)


def test_stacked_experts_without_a_weight_leaf() -> None:
    experts = "model.layers.0.mlp.experts.gate_up_proj"
    groups = logical(
        {
            f"{experts}_blocks": ("U8", (32, 5760, 90, 16)),
            f"{experts}_scales": ("U8", (32, 5760, 90)),
            f"{experts}_bias": ("BF16", (32, 5760)),
        }
    )
    assert [(g.pattern, g.elements, g.method) for g in groups] == [
        ("model.layers.{}.mlp.experts.gate_up_proj", 32 * 5760 * 2880, "mxfp4"),
        ("model.layers.{}.mlp.experts.gate_up_proj_bias", 32 * 5760, None),
    ]
    packed = {
        experts: ("U8", (8, IN // 2, OUT)),
        f"{experts}_weight_scale": ("F8_E4M3", (8, IN // 16, OUT)),
        f"{experts}_weight_scale_2": ("F32", (1,)),
        f"{experts}_input_scale": ("F32", (1,)),
    }
    groups = logical(packed, config(quant_method="modelopt", quant_algo="NVFP4"))
    assert [(g.elements, g.bits) for g in groups] == [(8 * IN * OUT, 4)]
    groups = logical({experts: ("F8_E4M3", (8, 512, 256)), f"{experts}_scale_inv": ("F32", (8, 4, 2))})
    assert [(g.pattern, g.elements, g.method) for g in groups] == [
        ("model.layers.{}.mlp.experts.gate_up_proj", 8 * 512 * 256, "fp8")
    ]


def test_layers_that_stay_unquantized_are_told_apart() -> None:
    tensors: Stored = {}
    for i in range(10):
        name = f"layers.{i}.down_proj"
        tensors[f"{name}.input_scale"] = ("F32", ())
        if i in (0, 9):
            tensors[f"{name}.weight"] = ("BF16", (64, 128))
        else:
            tensors[f"{name}.weight"] = ("U8", (64, 64))
            tensors[f"{name}.weight_scale"] = ("F8_E4M3", (64, 8))
            tensors[f"{name}.weight_scale_2"] = ("F32", ())
    groups = logical(tensors, config(quant_method="modelopt", quant_algo="NVFP4"))
    assert sum(g.total_elements for g in groups) == 10 * 64 * 128
    quantized = [g for g in groups if g.method]
    assert [(g.count, g.elements) for g in quantized] == [(8, 64 * 128)]
    assert list(quantized[0].indices()) == [(i,) for i in range(1, 9)]


def test_scales_of_the_kv_cache_are_no_parameters() -> None:
    tensors: Stored = {
        "l.0.self_attn.k_scale": ("F32", ()),
        "l.0.self_attn.k_proj.weight": ("F8_E4M3", (8, 8)),
        "l.0.self_attn.k_proj.weight_scale": ("F32", ()),
        "l.0.self_attn.k_proj.k_scale": ("F32", ()),
    }
    assert sum(g.total_elements for g in logical(tensors)) == 64


def test_a_scale_of_an_unquantized_model_is_a_parameter() -> None:
    tensors: Stored = {"norm.weight": ("BF16", (64,)), "norm.scale": ("BF16", (64,)), "x.scales": ("F32", (3,))}
    groups = logical(tensors)
    assert sum(g.total_elements for g in groups) == 131
    assert summarize(groups) is None


def test_what_no_layout_explains_counts_as_stored_and_says_so() -> None:
    tensors: Stored = {"a.weird_codes": ("I32", (64, 64)), "a.weird_scale": ("F16", (64,))}
    said = config(quant_method="brand-new", bits=3)
    groups = logical(tensors, said)
    assert sum(g.total_elements for g in groups) == 64 * 64 + 64
    summary = summarize(groups, said)
    assert summary is not None
    assert not summary.recognized
    assert summary.method == "brand-new"
    unsaid = summarize(groups)
    assert unsaid is not None
    assert not unsaid.recognized


@pytest.mark.parametrize(
    ("name", "shape", "buffer"),
    [
        ("model.layers.{}.self_attn.rotary_emb.inv_freq", (64,), True),
        ("model.layers.{}.mlp.gate.e_score_correction_bias", (256,), True),
        ("transformer.h.{}.attn.bias", (1, 1, 1024, 1024), True),
        ("transformer.h.{}.attn.bias", (768,), False),
        ("embeddings.position_ids", (1, 512), True),
        ("final_logits_bias", (1, 50265), True),
        ("model.layers.{}.self_attn.q_proj.bias", (4096,), False),
        ("model.layers.{}.self_attn.q_proj.weight", (1, 1, 3, 3), False),
    ],
)
def test_buffers(name: str, shape: tuple[int, ...], buffer: bool) -> None:
    assert is_buffer(name, shape) is buffer


# ------------------------------------------------------------------ real layouts


def read_files(corpus: Path, name: str) -> dict[str, Any]:
    files = {}
    for file in ("config.json", "hf_quant_config.json", "quantize_config.json"):
        path = corpus / "models" / name / file
        if path.exists():
            files[file] = json.loads(path.read_text())
    return files


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_headers_have_their_logical_parameters() -> None:
    corpus = Path(os.environ["HFMEM_CORPUS"])
    folder = corpus.parent / "headers"
    with (folder / "INDEX.tsv").open() as lines:
        rows = {row["id"].replace("/", "__"): row for row in csv.DictReader(lines, delimiter="\t")}
    quantized = 0
    for path in sorted(folder.glob("*.json.gz")):
        name = path.name.removesuffix(".json.gz")
        shards = json.loads(gzip.decompress(path.read_bytes()))["shards"]
        stored = merge({file: parse_header(json.dumps(header).encode(), file=file) for file, header in shards.items()})
        said = parse_quantization(read_files(corpus, name))
        for hint in {said, None}:
            groups = logical_groups(stored, hint)
            summary = summarize(groups, hint)
            assert sum(group.total_elements for group in groups) == int(rows[name]["params"]), name
            assert sum(group.total_bytes for group in groups) == int(rows[name]["total_bytes"]), name
            assert summary is None or summary.recognized, name
        quantized += said is not None
    assert quantized >= 9


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_configurations_are_understood() -> None:
    corpus = Path(os.environ["HFMEM_CORPUS"])
    with (corpus / "INDEX.tsv").open() as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["has_config"] == "1"]
    for row in rows:
        said = parse_quantization(read_files(corpus, row["id"].replace("/", "__")))
        column = row["quantisation"]
        if column not in ("-", "?"):
            assert said is not None, row["id"]
            assert said.known, row["id"]
            assert said.method == column.partition("-")[0] or column.startswith(said.method), row["id"]
