"""The speed of light against arithmetic by hand, and the planner's order and truth."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hfmem.api.configuring import configure
from hfmem.api.estimates import Model, estimate, read_model
from hfmem.api.planning import plan, speed
from hfmem.cli import main
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions
from hfmem.model.layers import IndexedAttention, LatentAttention, Layer
from hfmem.plan.devices import find_device, plain_memory
from hfmem.plan.roofline import Roofline

LLAMA = "meta-llama/Meta-Llama-3-8B"
H100 = find_device("h100").device
OFFLINE = FetchOptions(offline=True, no_cache=True)
#: all matrices but the input embedding (128,256 × 4,096); the norms are 65 × 4,096
MATRICES = 8_030_261_248 - 128_256 * 4096
HEAD = 128_256 * 4096
#: K and V of 8 heads × 128 in 32 layers, 2 bytes each
TOKEN = 2 * 8 * 128 * 32 * 2


@pytest.fixture(scope="module")
def llama() -> Model:
    """Llama 3 8B from the shipped catalogue."""
    return read_model(LLAMA, fetch=OFFLINE)


def bounds(model: Model, **settings: Any) -> Roofline:
    """The roofline of a configuration, which has one."""
    found = speed(configure(model, **settings))
    assert found is not None
    return found


def test_decoding_is_bytes_over_bandwidth(llama: Model) -> None:
    found = bounds(llama, context=8192, num_seqs=4, device="h100")
    assert abs(found.weights_bytes_read - 2 * MATRICES) <= 1
    assert found.cache_bytes_read == 4 * 8192 * TOKEN
    seconds = (2 * MATRICES + 4 * 8192 * TOKEN) / 3350e9
    assert found.decode_bound == "memory"
    assert found.decode_seconds == pytest.approx(seconds)
    assert found.tokens_per_second_per_sequence == pytest.approx(1 / seconds)
    assert found.tokens_per_second == pytest.approx(4 / seconds)
    # q·k and scores·v: 2 operations × 32 heads × (128 + 128), 32 layers
    attention = 32 * 2 * 32 * 256
    assert found.decode_operations == 4 * (2 * MATRICES + 8192 * attention)
    # a prompt needs the head (128,256 × 4,096) for its last token alone
    prefill = 2 * (8192 * (MATRICES - HEAD) + HEAD) + attention * 8192 * 8193 // 2
    assert found.prefill_operations == prefill
    assert found.prefill_bound == "compute"
    assert found.prefill_seconds == pytest.approx(prefill / 989.4e12)
    assert found.prefill_tokens_per_second == pytest.approx(8192 / (prefill / 989.4e12))


def test_an_indexer_bounds_what_a_query_works_on(llama: Model) -> None:
    def indexed(topk: int | None) -> Roofline:
        layer = Layer((IndexedAttention(32, 8, 128, 128, index_head_dim=128, index_topk=topk),))
        model = replace(llama, architecture=replace(llama.architecture, layers=(layer,) * 32))
        return bounds(model, context=8192, num_seqs=4, device="h100")

    # q·k and scores·v with 2,048 picked tokens; how many are picked may not be known, then it is a bound without them
    attention = 32 * 2 * 32 * 256
    assert indexed(2048).decode_operations == 4 * (2 * MATRICES + 2048 * attention)
    assert indexed(None).decode_operations == 4 * 2 * MATRICES
    # a prompt's first 2,048 tokens look at all before them
    looked_at = 2048 * 2049 // 2 + (8192 - 2048) * 2048
    assert indexed(2048).prefill_operations == 2 * (8192 * (MATRICES - HEAD) + HEAD) + attention * looked_at


def test_latents_are_unfolded_for_a_prompt(llama: Model) -> None:
    layer = Layer((LatentAttention(16, 512, 64, qk_nope_head_dim=128, v_head_dim=96),))
    model = replace(llama, architecture=replace(llama.architecture, layers=(layer,) * 32))
    found = bounds(model, context=8192, num_seqs=4, device="h100")
    # one token: 16 heads against rows of 512 + 64, and the scores times the 512
    assert found.decode_operations == 4 * (2 * MATRICES + 8192 * 32 * 2 * 16 * (512 + 64 + 512))
    # a prompt: q·k over 128 + 64, scores·v over 96
    heads = 32 * 2 * 16 * (128 + 64 + 96)
    assert found.prefill_operations == 2 * (8192 * (MATRICES - HEAD) + HEAD) + heads * 8192 * 8193 // 2


def test_layers_of_one_part_are_reduced_once() -> None:
    """Nemotron-H 56B: each of 118 layers is a Mamba 2 block, an attention or a feed-forward, with one row-parallel projection."""
    found = bounds(
        read_model("nvidia/Nemotron-H-56B-Base-8K", fetch=OFFLINE), context=8192, num_seqs=8, device="8xh100"
    )
    hidden, logits = 8 * 8192 * 2, 8 * 131_072 * 2
    assert found.decode_link_bytes == (118 + 1) * hidden * 2 * 7 // 8 + logits * 7 // 8


def test_tensor_parallelism_shares_bytes_and_adds_collectives(llama: Model) -> None:
    found = bounds(llama, context=8192, num_seqs=64, device="4xh100")
    alone = bounds(llama, context=8192, num_seqs=64, device="h100")
    assert found.cache_bytes_read * 4 == alone.cache_bytes_read
    assert found.weights_bytes_read < alone.weights_bytes_read / 3.9
    assert alone.decode_link_bytes == 0
    # 64 × 4,096 half-precision numbers are reduced after attention and feed-forward of 32 layers and after the embedding: each
    # rank sends 2 × 3/4 of them; of the logits it takes in 3/4
    hidden, logits = 64 * 4096 * 2, 64 * 128_256 * 2
    assert found.decode_link_bytes == (32 * 2 + 1) * hidden * 2 * 3 // 4 + logits * 3 // 4
    slow = replace(H100, interconnect=replace(H100.interconnect, bytes_per_second=10**9))  # type: ignore[type-var]
    linked = bounds(llama, context=8192, num_seqs=64, device=slow, num_devices=4)
    assert linked.decode_bound == "link"
    assert linked.decode_seconds == pytest.approx(found.decode_link_bytes / 1e9)


def test_pipeline_stages_work_on_batches_of_their_own(llama: Model) -> None:
    two = bounds(llama, context=8192, num_seqs=64, device="2xh100", tp=1, pp=2)
    assert two.batches == 2
    # a batch of 32 passes both stages: all weights, its own cache, hidden states once over the link
    assert abs(two.weights_bytes_read - 2 * MATRICES) <= 2
    assert two.cache_bytes_read == 32 * 8192 * TOKEN
    assert two.decode_link_bytes == 32 * 4096 * 2
    assert two.tokens_per_second == pytest.approx(64 / two.decode_seconds)
    single = bounds(llama, context=8192, num_seqs=1, device="2xh100", tp=1, pp=2)
    alone = bounds(llama, context=8192, num_seqs=1, device="h100")
    assert single.batches == 1  # one sequence keeps one stage busy at a time
    assert single.tokens_per_second == pytest.approx(alone.tokens_per_second, rel=1e-6)


def test_replicas_share_the_sequences(llama: Model) -> None:
    found = bounds(llama, context=8192, num_seqs=64, device="2xh100", dp=2)
    half = bounds(llama, context=8192, num_seqs=32, device="h100")
    assert found.decode_seconds == half.decode_seconds and found.decode_link_bytes == 0
    assert found.tokens_per_second == pytest.approx(2 * half.tokens_per_second)


def test_more_sequences_turn_to_compute_and_a_batch_reads_weights_once(llama: Model) -> None:
    one = bounds(llama, context=16, num_seqs=1, device=H100)
    many = bounds(llama, context=16, num_seqs=2000, device=H100)
    assert many.weights_bytes_read == one.weights_bytes_read
    assert (one.decode_bound, many.decode_bound) == ("memory", "compute")


def test_experts_that_a_batch_uses() -> None:
    model = read_model("Qwen/Qwen3-30B-A3B", fetch=OFFLINE)
    experts = 48 * 128 * 3 * 768 * 2048 * 2
    rest = estimate(model, context=16).weights.bytes - experts
    embedding = 151_936 * 2048 * 2
    for tokens in (1, 8, 64):
        found = bounds(model, context=16, num_seqs=tokens, device=H100)
        share = 1 - (Fraction(120, 128)) ** tokens  # 8 of 128 experts a token
        assert found.weights_bytes_read == pytest.approx(rest - embedding + float(share) * experts, rel=1e-9)


def test_experts_of_replicas_meet_all_their_tokens() -> None:
    model = read_model("Qwen/Qwen3-30B-A3B", fetch=OFFLINE)
    experts = 48 * 128 * 3 * 768 * 2048 * 2
    rest = estimate(model, context=16).weights.bytes - experts - 151_936 * 2048 * 2
    found = bounds(model, context=16, num_seqs=8, device="4xh100", dp=4, ep=True)
    share = 1 - (Fraction(120, 128)) ** 8  # all 8 sequences', on a quarter of the experts
    assert found.weights_bytes_read == pytest.approx(rest + float(share) * experts / 4, rel=1e-9)
    # a replica's two tokens go to the ranks that hold one of their 8 of 128 experts, 32 on each, and come back, in 48 layers; a
    # rank that holds none of them is as likely as 8 draws from the other 96
    missed = Fraction(1)
    for drawn in range(8):
        missed *= Fraction(96 - drawn, 128 - drawn)
    expected = 48 * int(2 * 2 * 2048 * 2 * 3 * (1 - missed))
    assert found.decode_link_bytes == expected


def test_states_are_written_back_and_windows_end_what_is_read() -> None:
    mamba = read_model("state-spaces/mamba-130m-hf", fetch=OFFLINE)
    found = bounds(mamba, context=100_000, num_seqs=4, device=H100)
    # 24 layers of 1,536 channels: 16 states and 3 convolution inputs each
    assert found.cache_bytes_read == found.cache_bytes_written == 4 * estimate(mamba, context=16).kv_cache.ideal_bytes
    mistral = read_model("mistralai/Mistral-7B-v0.1", fetch=OFFLINE)
    window = bounds(mistral, context=32768, device=H100)
    assert window.cache_bytes_read == 4096 * TOKEN and window.cache_bytes_written == 0
    # 7,241,732,096 parameters, tables of 32,000 × 4,096; a pair of tokens takes 2 operations × 32 heads × (128 + 128) in 32 layers
    matrices, table, pair = 7_241_732_096 - 32_000 * 4096, 32_000 * 4096, 32 * 2 * 32 * 256
    assert window.decode_operations == 2 * matrices + 4096 * pair
    pairs = (
        4096 * 4097 // 2 + (32768 - 4096) * 4096
    )  # up to the window each token looks at all before it, then at the window
    assert window.prefill_operations == 2 * (32768 * (matrices - table) + table) + pair * pairs


@pytest.mark.parametrize(("engine", "together"), [("llama.cpp", 1), ("vllm", 2)])
def test_devices_that_take_turns_do_not_multiply_together(llama: Model, engine: str, together: int) -> None:
    found = bounds(llama, context=16, num_seqs=2048, device="2xh100", tp=2, engine=engine)
    assert found.decode_bound == "compute"
    assert found.decode_seconds == pytest.approx(found.decode_operations / (989.4e12 * together))


@pytest.mark.parametrize(("name", "ranks"), [(LLAMA, 1), ("mistralai/Mixtral-8x7B-Instruct-v0.1", 2)])
def test_only_shared_experts_compute_a_prompt_together(name: str, ranks: int) -> None:
    found = bounds(read_model(name, fetch=OFFLINE), context=8192, device="2xh100", dp=2)
    assert found.prefill_bound == "compute"
    assert found.prefill_seconds == pytest.approx(found.prefill_operations / (989.4e12 * ranks))


def test_a_chunk_begins_anew() -> None:
    """Llama 4 Scout: of 48 layers 36 look back to the start of a chunk of 8,192 tokens, 12 to the start; 40 heads × 128."""
    scout = read_model("meta-llama/Llama-4-Scout-17B-16E-Instruct", fetch=OFFLINE)
    work = {n: bounds(scout, context=n, device="8xh100").prefill_operations for n in (8191, 8192, 8193, 8194)}
    # the last token of a chunk, the first and the second of the next one
    last, first, second = (work[n] - work[n - 1] for n in (8192, 8193, 8194))
    assert first - last == 2 * 40 * 256 * (12 * 1 + 36 * (1 - 8192))
    assert second - last == 2 * 40 * 256 * (12 * 2 + 36 * (2 - 8192))


def test_latents_are_read_whole_on_every_rank() -> None:
    model = read_model("deepseek-ai/DeepSeek-V3", fetch=OFFLINE)
    found = bounds(model, context=8192, num_seqs=8, device="8xh200")
    assert found.cache_bytes_read == 8 * 8192 * 61 * (512 + 64) * 2
    grouped = bounds(model, context=8192, num_seqs=8, device="8xh200", engine="sglang", attn_dp=8)
    assert grouped.cache_bytes_read == 8192 * 61 * (512 + 64) * 2  # each group its own sequence


def test_context_ranks_read_a_part_of_the_tokens() -> None:
    """DeepSeek V3 keeps 61 layers of 576 values: four context-parallel ranks each read a quarter of the tokens."""
    model = read_model("deepseek-ai/DeepSeek-V3", fetch=OFFLINE)
    for dcp in (1, 4):
        found = bounds(model, context=8192, device="8xh200", tp=8, dcp=dcp)
        assert found.cache_bytes_read == 61 * 8192 // dcp * 576 * 2


def test_the_host_s_share_has_no_bound() -> None:
    model = read_model("Qwen/Qwen3-8B", fetch=OFFLINE)
    assert speed(configure(model, context=512, device="4090", gpu_layers=12)) is None


def test_unknown_bandwidth_or_rate(llama: Model) -> None:
    assert speed(configure(llama, context=8192, device=plain_memory(80 << 30))) is None
    assert speed(configure(llama, context=8192, device="24GiB")) is None
    assert speed(configure(llama, context=8192)) is None
    blind = replace(find_device("3060").device, rates={})
    found = bounds(llama, context=8192, device=blind)
    assert found.prefill_seconds is None and found.decode_bound == "memory"


def test_plan_names_the_fewest_of_each(llama: Model) -> None:
    answer = plan(llama, users=16, context=8192, devices="h100,4090,l4")
    counts = {layout.device: layout.num_devices for layout in answer.layouts}
    assert list(counts.values()) == sorted(counts.values())
    assert set(counts) == {"H100 SXM 80GB", "RTX 4090", "L4"}
    for layout in answer.layouts:
        device = find_device(layout.device).device
        found = estimate(
            llama, context=8192, num_seqs=16, device=device, num_devices=layout.num_devices, tp=layout.tp, pp=layout.pp
        ).fit
        assert found is not None and found.verdict == layout.verdict != "does-not-fit"
        assert found.max_num_seqs == layout.max_num_seqs and found.headroom_bytes == layout.headroom_bytes
        if layout.num_devices > 1:
            fewer = estimate(llama, context=8192, num_seqs=16, device=device, num_devices=layout.num_devices // 2).fit
            assert fewer is not None and fewer.verdict == "does-not-fit"
    assert answer.report.fit is not None and answer.report.fit.device == answer.layouts[0].device


def test_plan_over_the_catalogue_is_sorted_and_bounded(llama: Model) -> None:
    answer = plan(llama, users=4, context=8192, max_devices=4)
    order = [(layout.num_devices, layout.memory_bytes) for layout in answer.layouts]
    assert len(order) > 20 and order == sorted(order)
    assert max(layout.num_devices for layout in answer.layouts) <= 4
    assert plan(llama, users=4000, context=131072, devices="l4", max_devices=8).layouts == ()
    with pytest.raises(UsageError, match="names no device"):
        plan(llama, devices=" , ")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["plan", LLAMA, "--offline", *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    status, out, _ = run("--users", "8", "--ctx", "8k", "--gpu", "h100,4090", "--json")
    assert status == 0
    assert [row["device"] for row in json.loads(out)["layouts"]] == ["H100 SXM 80GB", "RTX 4090"]
    status, out, _ = run("--users", "8", "--ctx", "8k", "--gpu", "4090", "--emit", "vllm")
    assert status == 0 and "--tensor-parallel-size 2" in out and "--max-num-seqs 8" in out
    status, out, err = run("--users", "4000", "--ctx", "128k", "--gpu", "4090")
    assert (status, out) == (1, "") and "fits no layout" in err
    status, _, err = run("--gpu", "nosuch")
    assert status == 2 and "not a known device" in err


def test_files_without_a_tensor_bound_nothing(tmp_path: Path) -> None:
    """An encoder, which caches nothing, of a file that holds nothing: no byte moves."""
    config = read_model("BAAI/bge-small-en-v1.5", fetch=OFFLINE).facts.config
    (tmp_path / "config.json").write_text(json.dumps(dict(config)))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    empty = read_model(str(tmp_path), fetch=OFFLINE)
    assert empty.parameters.weights_bytes == 0
    assert speed(configure(empty, device="h100")) is None
