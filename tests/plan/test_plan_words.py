"""Which layouts a plan offers, in what order, and how its table writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run

from hfmem.api.configuring import configure
from hfmem.api.estimates import Model
from hfmem.api.planning import Layout, plan
from hfmem.api.remedies import remedies
from hfmem.plan.devices import Device
from hfmem.render.plan import plan_grid, short_count


def test_of_as_many_devices_the_smallest_comes_first(llama: Model) -> None:
    found = plan(llama, users=1, context=2048, devices="b200,h100,4090", engine="vllm").layouts
    assert [(layout.num_devices, layout.device) for layout in found] == [
        (1, "RTX 4090"),
        (1, "H100 SXM 80GB"),
        (1, "B200"),
    ]


def test_machines_of_one_device(llama: Model) -> None:
    """A Mac cannot be put beside another; Grace Hoppers can, and each is a machine of its own."""
    asked = {"users": 1, "context": 8192, "dtype": "fp32", "engine": "llama.cpp", "max_devices": 8}
    assert plan(llama, devices="m2-ultra-64gb", **asked).layouts != ()  # type: ignore[arg-type]
    assert plan(llama, devices="m1-8gb", **asked).layouts == ()  # type: ignore[arg-type]
    many = plan(llama, users=64, context=32768, devices="gh200-96gb", engine="vllm").layouts
    assert [(layout.num_nodes, layout.tp) for layout in many] == [(many[0].num_devices, 1)] and many[0].num_nodes > 1


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (1023, "1,023"),
        (1024, "1 k"),
        (1536, "1.5 k"),
        (131_071, "127 k"),
        (131_072, "128 k"),
        (1 << 20, "1 M"),
        (1_258_290, "1.1 M"),
    ],
)
def test_lengths_are_rounded_down(tokens: int, text: str) -> None:
    assert short_count(tokens) == text


def test_what_nothing_bounds_is_any(llama: Model) -> None:
    report = configure(llama, context=2048).report()
    row = Layout("X", 1, 1, 1, 1, "fits", 1, 1, 0, None, None, None, "exact")
    assert plan_grid(report, [row]).rows[0][4:7] == ("any", "any", "–")


@pytest.mark.parametrize(("share", "offered"), [(96, True), (97, True), (98, False), (100, False)])
def test_the_last_hundredths_of_a_device_are_no_remedy(llama: Model, share: int, offered: bool) -> None:
    """Weights, 8,192 tokens and the empty page of 16, of 128 KiB each, and nothing beside them."""
    need = llama.parameters.weights_bytes + (8192 + 16) * (128 << 10)
    device = Device("X", "nvidia", need * 100 // share + 1, "given")
    found = configure(llama, context=8192, overhead=0.0, device=device)
    fit = found.report().fit
    assert fit is not None and fit.verdict == "does-not-fit"
    assert ("utilization" in {remedy.kind for remedy in remedies(found, fit)}) is offered


def test_prediction_layers_keep_a_cache_each(run: Run, tmp_path: Path) -> None:
    config = {
        "model_type": "glm4_moe", "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "n_routed_experts": 4, "vocab_size": 128,
        "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1, "max_position_embeddings": 512,
    }  # fmt: skip
    sizes = []
    for count in (1, 3):
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": count}))
        status, out, err = run(str(tmp_path), "--draft", "mtp", "--json")
        assert status == 0, err
        sizes.append(json.loads(out)["draft"]["kv_cache_bytes_per_rank"])
    assert sizes == [512 * 2 * 2 * 16 * 2, 3 * 512 * 2 * 2 * 16 * 2]  # K and V of 2 heads × 16 in 16 bits
