"""What fits a device, by models of a layer or two whose bytes are multiplied out here."""

from __future__ import annotations

import pytest
from example_architectures import build, one

from hfmem.api.estimates import Model, estimate
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CompressedAttention, FullAttention, Layer, NoCache
from hfmem.plan.devices import plain_memory
from hfmem.plan.fit import Scale
from hfmem.plan.target import Target
from hfmem.report import RuntimeItem

#: K and V of 8 heads × 128 in bf16
TOKEN = 2 * 8 * 128 * 2
OWN = 1 << 20


def scale(arch: Architecture, memory: int, devices: int = 1, own: int = 0) -> Scale:
    """Weighs `arch` without weights where the engine itself takes `own` bytes."""
    item = RuntimeItem(own, own, own, "estimated", "")
    return Scale(arch, (), lambda *_: {"activations_bytes": item} if own else {}, Target(plain_memory(memory), devices))


@pytest.mark.parametrize("engine", ["ideal", "transformers"])
def test_a_model_that_keeps_nothing_fits_what_is_left_to_the_byte(engine: str) -> None:
    encoder = build("bert", one(NoCache("encoder"), 2))
    serving = Serving(512, engine=engine)
    assert scale(encoder, OWN, own=OWN).fits(serving)
    assert not scale(encoder, OWN - 1, own=OWN).fits(serving)


def test_a_serving_engine_needs_no_pool_for_a_model_that_keeps_nothing() -> None:
    assert scale(build("bert", one(NoCache("encoder"), 2)), 1 << 30).fits(Serving(512, engine="vllm"))


def test_every_stage_must_hold_its_own_cache() -> None:
    # the first of two stages keeps nothing, the second 100 tokens of one layer
    arch = build("x", [Layer((NoCache("block"),)), Layer((FullAttention(32, 8, 128, 128),))])
    serving = Serving(100, engine="transformers", pp=2)
    assert scale(arch, 100 * TOKEN, 2).fits(serving)
    assert not scale(arch, 100 * TOKEN - 1, 2).fits(serving)


def test_a_sequence_must_fit_at_every_length_on_its_way() -> None:
    """9 tokens of a window of 16 compressed 4 to 1 take 9 rows, 2 of groups and 1 token's values and gates; 7 on the way there 7
    rows, 1 and 3 tokens': rows of 256 bytes, values and gates of 512."""
    arch = build("deepseek_v4", one(CompressedAttention(4, 128, 16, 4), 1))
    end, before = 9 * 256 + 2 * 256 + 512, 7 * 256 + 256 + 3 * 512
    assert before > end
    assert scale(arch, before).fits(Serving(9, engine="ideal"))
    assert not scale(arch, before - 1).fits(Serving(9, engine="ideal"))
    assert scale(arch, before - 1).weigh(Serving(9, engine="ideal")).headroom_bytes == -1
    assert scale(arch, before - 1).max_context(Serving(9, engine="ideal")) == 6


@pytest.mark.parametrize(("engine", "warned"), [("vllm", True), ("sglang", True), ("llama.cpp", False)])
def test_who_computes_no_bf16_on_old_devices(llama: Model, engine: str, warned: bool) -> None:
    """llama.cpp converts what a device cannot compute; vLLM and SGLang refuse bf16 below compute capability 8.0."""
    found = estimate(llama, context=1024, device="t4", engine=engine)
    assert any(note.code == "device_dtype" and "7.5" in note.message for note in found.warnings) is warned
