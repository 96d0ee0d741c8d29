"""Lines of engines that have no rules here, of Ollama's own runner, and what layers of logging put around a line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from verified_logs import OFFLINE, compare

from hfmem.errors import UsageError
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.verify import verify_log
from hfmem.units import GIB

TRT = "[TensorRT-LLM][INFO] [MemUsageChange] Allocated {} GiB for max tokens in paged KV cache ({})."
LINES = (
    "(APIServer pid=1) INFO 11-28 07:00:00 [api_server.py:1839] vLLM API server version 0.24.0",
    "(APIServer pid=1) INFO 11-28 07:00:00 [utils.py:253] non-default args: {'model': 'org/Model', 'max_model_len': 131072, "
    "'kv_cache_dtype': 'fp8', 'enable_prefix_caching': True}",
    "(Worker_TP0 pid=273) INFO 11-28 07:00:50 [gpu_worker.py:508] Available KV cache memory: 5.98 GiB",
    "(EngineCore pid=272) INFO 11-28 07:00:50 [kv_cache_utils.py:2146] GPU KV cache size: 567,978 tokens",
)


def test_a_pool_of_tensorrt_llm() -> None:
    """A public notebook's two engines: 28 and 24 layers of 2 heads, K and V in 16 bit; the last pool is the one that is kept."""
    small = TRT.format("0.56", 8224)
    text = f"{small}\n{TRT.format('7.31', 273_792)}\n"
    (item,) = compare(text, "Qwen/Qwen2.5-1.5B-Instruct").values()
    assert item.verdict == "equal" and item.predicted == 273_792 * 28 * 2 * 2 * 128 * 2
    (other,) = compare(TRT.format("2.18", 190_656), "Qwen/Qwen2.5-0.5B-Instruct").values()
    assert other.verdict == "equal"
    found = verify_log(text, "Qwen/Qwen2.5-1.5B-Instruct", fetch=OFFLINE).result
    assert "no rules for TensorRT-LLM" in found.assumptions[0] and "--engine" not in found.flags


def test_a_pool_in_fp8_on_two_ranks_says_so() -> None:
    halved = TRT.format(f"{273_792 * 28 * 2 * 2 * 128 / GIB:.2f}", 273_792)
    (item,) = compare(halved, "Qwen/Qwen2.5-1.5B-Instruct").values()
    assert item.reason is not None and "fp8" in item.reason


def test_blocks_of_lmdeploy() -> None:
    """64 tokens of 28 layers, 4 heads of 128, K and V in 16 bit: 3.5 MiB, printed as whole ones."""
    text = "lmdeploy serve api_server Qwen/Qwen2.5-7B-Instruct\n[TM][INFO] [BlockManager] block_size = {} MB\n"
    (item,) = compare(text.format(3)).values()
    assert item.verdict == "equal" and item.predicted == 64 * 28 * 2 * 4 * 128 * 2
    (longer,) = compare(text.format(7)).values()
    assert longer.reason == "fits with blocks of 128 tokens: --cache-block-seq-len 128"


def test_tgi_prints_no_bytes() -> None:
    line = {"level": "INFO", "message": "Setting max batch total tokens to 133696", "target": "text_generation_router"}
    with pytest.raises(UsageError, match=r"TGI .*no rules for: it says room for 133,696 tokens"):
        parse_log(json.dumps(line))


def test_ollama_s_own_runner() -> None:
    """Qwen3 30B A3B at 32,768 tokens: 48 layers of 4 heads of 128, K and V in 16 bit, on device and host: 3 GiB."""
    text = (
        'msg=load request="{Operation:commit LoraPath:[] Parallel:1 BatchSize:512 FlashAttention:Enabled KvSize:32768 '
        'KvCacheType: NumThreads:8 GPULayers:30[ID:GPU-2 Layers:30(18..47)]}"\n'
        'msg="kv cache" device=CUDA0 size="1.9 GiB"\nmsg="kv cache" device=CPU size="1.1 GiB"\n'
    )
    item = compare(text, "Qwen/Qwen3-30B-A3B")["KV cache"]
    assert item.verdict == "equal" and item.predicted == 32_768 * 48 * 2 * 4 * 128 * 2
    quantized = parse_log(text.replace("KvCacheType:", "KvCacheType:q8_0").replace("Enabled", "false")).settings
    assert (quantized.key_type, quantized.value_type, quantized.flash_attention) == ("q8_0", "q8_0", False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda row: f"vllm-1  | {row}",
        lambda row: f"2026-11-28T07:00:00.123456789Z stdout F {row}",
        lambda row: f"2026-11-28T07:00:00.1Z stderr P {row[:60]}\n2026-11-28T07:00:00.2Z stderr F {row[60:]}",
        lambda row: json.dumps({"jsonPayload": {"message": row}, "severity": "INFO"}),
        lambda row: json.dumps({"kubernetes": {"pod": "x"}, "log": {"message": row}}),
        lambda row: "2026-11-28T07:00:00Z stdout F " + json.dumps({"msg": row}),
        lambda row: json.dumps({"Body": row}) + ",",
        lambda row: f"\x1b[1;36m{row[:15]}\x1b[0;0m{row[15:]}",
    ],
)
def test_what_is_around_a_line(wrap: Callable[[str], str]) -> None:
    plain, wrapped = parse_log("\n".join(LINES)), parse_log("\n".join(map(wrap, LINES)))
    assert wrapped.settings == plain.settings and wrapped.version == plain.version
    values = [{name: items[0].value for name, items in log.readings.items()} for log in (plain, wrapped)]
    assert values[0] == values[1] and values[0]["capacity_tokens"] == 567_978


def test_journald_with_colours() -> None:
    """`journalctl -o json` writes a message with escape characters as a list of its bytes."""
    rows = (
        "\x1b[36m(EngineCore pid=7)\x1b[0m INFO Model loading took 15.27 GiB memory and 9.1 seconds",
        "GPU KV cache size: 96 tokens",
    )
    text = "\n".join(json.dumps({"_PID": "7", "MESSAGE": list(row.encode())}) for row in rows)
    log = parse_log(text)
    weights, tokens = log.first("weights_bytes"), log.first("capacity_tokens")
    assert weights is not None and tokens is not None
    assert (weights.value, tokens.value, tokens.line) == (round(15.27 * 2**30), 96, 2)
