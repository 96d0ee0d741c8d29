"""SGLang's pools, states and weights in its lines, by arithmetic from the models' configs."""

from __future__ import annotations

import pytest
from verified_logs import OFFLINE, by_name, compare

from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.verify import verify_log

_GPT_OSS = "python -m sglang.launch_server --model-path openai/gpt-oss-20b --context-length 32768\n"
#: 12 layers of each kind, 8 heads of 64 in two bytes: K of a token, as V
_TOKEN = 12 * 8 * 64 * 2
_LLAMA = "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct\n"
_LOADED = "Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=63.40 GB"


def test_two_pools_the_windowed_first() -> None:
    """The windows' pool of 100,000 tokens stands first; a slot beside the tokens is allocated with each."""
    found = compare(
        _GPT_OSS + "KV Cache is allocated. #tokens: 100000, K size: 1.14 GB, V size: 1.14 GB\n"
        "KV Cache is allocated. #tokens: 200000, K size: 2.29 GB, V size: 2.29 GB\n"
    )
    for name in ("K of the token pool", "V of the token pool"):
        assert 0 < (found[name].predicted or 0) - 200_000 * _TOKEN <= 256 * _TOKEN
        assert 0 < (found[f"{name}, windowed"].predicted or 0) - 100_000 * _TOKEN <= 256 * _TOKEN
        assert {found[name].verdict, found[f"{name}, windowed"].verdict} == {"equal"}


def test_the_sum_of_two_pools() -> None:
    found = compare(_GPT_OSS + "SWAKVPool mem usage: 6.87 GB, swa size: 100000, full size: 200000\n")
    assert found["token pools"].verdict == "equal"


def _states(flag: str, width: int) -> str:
    """Qwen3.5-27B: 48 layers of 48 heads of 128 by 128, and 3 columns of 10,240 in bf16, for 124 slots and one more."""
    states, columns = (125 * 48 * count / 2**30 for count in (48 * 128 * 128 * width, 3 * 10_240 * 2))
    sizes = f"conv_state size: {columns:.2f}GB, ssm_state size: {states:.2f}GB"
    start = f"python -m sglang.launch_server --model-path Qwen/Qwen3.5-27B{flag}"
    return f"{start}\nMamba Cache is allocated. max_mamba_cache_size: 124, {sizes}\n"


@pytest.mark.parametrize(
    ("flag", "width"), [("", 4), (" --mamba-ssm-dtype float32", 4), (" --mamba-ssm-dtype bfloat16", 2)]
)
def test_states_of_every_slot_and_one(flag: str, width: int) -> None:
    assert compare(_states(flag, width))["recurrent states"].verdict == "equal"


def test_states_in_a_type_that_the_log_does_not_tell() -> None:
    item = compare(_states("", 2))["recurrent states"]
    assert item.verdict == "differs" and item.reason == "fits if states are bfloat16: --mamba-ssm-dtype bfloat16"


def test_weights_by_how_free_memory_fell() -> None:
    """A release that prints no "mem usage": before less after."""
    found = compare(f"{_LLAMA}Load weight begin. avail mem=78.43 GB\n{_LOADED}\n")
    assert found["weights"].verdict == "equal"
    assert abs(found["weights"].logged - 15.03 * 2**30) < 2**20


@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        ("15.32", "SGLang prints how free memory fell, with what else was taken while loading"),
        ("16.97", "SGLang prints how free memory fell: other programs on the device may have taken some"),
        ("27.50", None),
    ],
)
def test_memory_that_others_took_meanwhile(taken: str, reason: str | None) -> None:
    item = compare(f"{_LLAMA}{_LOADED}, mem usage={taken} GB.\n")["weights"]
    assert (item.verdict, item.reason) == ("differs", reason)


def test_experts_on_the_host() -> None:
    text = (
        "python -m sglang.launch_server --model-path Qwen/Qwen3-30B-A3B --kt-method AMXINT4\n"
        "Load weight end. type=Qwen3MoeForCausalLM, avail mem=5.64 GB, mem usage=16.41 GB.\n"
    )
    assert parse_log(text).settings.other == ("ktransformers",)
    item = by_name(verify_log(text, fetch=OFFLINE).result)["weights"]
    assert item.reason == "ktransformers is on, which is not computed here"


@pytest.mark.parametrize(("told", "verdict"), [("max_total_tokens=32768, ", "equal"), ("", "differs")])
def test_the_most_tokens_that_a_log_tells(told: str, verdict: str) -> None:
    """8B in bf16 on a device of 79 GiB: 128 KiB a token would fill it with more than 32,768."""
    found = compare(
        f"server_args=ServerArgs({told}model_path='meta-llama/Llama-3.1-8B-Instruct', mem_fraction_static=0.85)\n{_LLAMA}"
        f"Load weight begin. avail mem=78.43 GB\n{_LOADED}\nmax_total_num_tokens=32768, context_len=131072\n"
    )
    assert found["KV cache tokens"].verdict == verdict


def test_what_a_multimodal_model_reserves_is_not_the_pools() -> None:
    """Qwen2.5-VL 3B: 36 layers × 2 heads × 128 × 2 in bf16 are 36,864 bytes a token; 0.10 GB (of 2**30) are so many tokens less."""
    found = []
    for reserved in (
        "",
        "Reserving 0.10 GB of the KV budget for post-sizing multimodal allocations (feature pools).\n",
    ):
        text = (
            "server_args=ServerArgs(model_path='Qwen/Qwen2.5-VL-3B-Instruct', mem_fraction_static=0.8, page_size=1)\n"
            "Load weight begin. avail mem=78.00 GB\nLoad weight end. avail mem=70.90 GB, mem usage=7.10 GB.\n"
            f"{reserved}max_total_num_tokens=1608000, context_len=128000\n"
        )
        found.append(by_name(verify_log(text, fetch=OFFLINE).result)["KV cache tokens"].predicted)
    assert found[0] == int((70.90 - 78 * 0.2) * 2**30 / 36_864)
    assert found[0] - found[1] == pytest.approx(0.1 * 2**30 / 36_864, abs=1)
