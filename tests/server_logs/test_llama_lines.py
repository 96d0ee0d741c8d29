"""llama.cpp's lines where that of the context is not in the log: cells, streams, buffers and states tell it."""

from __future__ import annotations

import pytest
from example_architectures import build, one
from verified_logs import OFFLINE, by_name

from hfmem.api.reading import read_model
from hfmem.hub import FetchOptions
from hfmem.memory.engines.llama_cpp.cells import cell_bytes, state_cell_bytes
from hfmem.memory.serving import Serving
from hfmem.model.layers import FullAttention, Layer, SlidingAttention
from hfmem.server_logs.gguf_settings import build_told
from hfmem.server_logs.llama_cpp import build_of, llama_checks
from hfmem.server_logs.llama_weights import filled
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.verify import verify_log
from hfmem.units import MIB

#: gpt-oss-20b's caches: 12 layers of each kind, 8 heads of 64
_GPT_OSS = build(
    "gpt_oss",
    [
        Layer((kind,))
        for _ in range(12)
        for kind in (SlidingAttention(64, 8, 64, 64, 128), FullAttention(64, 8, 64, 64))
    ],
)
_FULL = "llama_kv_cache: size = 1632.00 MiB (131072 cells, 12  layers, 1/1 seqs), K (q8_0): 816.00 MiB, V (q8_0): 816.00 MiB\n"


@pytest.mark.parametrize(
    ("line", "context", "slots", "unified"),
    [
        (
            "size = 17408.00 MiB (1048576 cells, 8 layers, 4/1 seqs), K (q8_0): 8704.00, V (q8_0): 8704.00",
            1048576,
            4,
            True,
        ),
        ("size = 9216.00 MiB (131072 cells,  18 layers,  2/2 seqs), K (f16): 4608.00 MiB", 262144, 2, False),
        ("size =  512.00 MiB (  4096 cells,  32 layers,  1 seqs), K (f16):  256.00 MiB", 4096, 1, False),
        ("       size = 3920.00 MiB (200704 cells, 10 layers)", 200704, 1, False),
    ],
)
def test_context_and_slots_by_the_cells(line: str, context: int, slots: int, unified: bool) -> None:
    told = parse_log(f"llama_kv_cache: {line}\n").settings
    assert (told.context, told.slots, told.unified) == (context, slots, unified)


def test_the_contexts_own_line_wins() -> None:
    told = parse_log(
        "llama_context: n_seq_max     = 1\nllama_context: n_ctx         = 8000\n"
        "llama_kv_cache: size =  512.00 MiB (  8192 cells,  32 layers,  1/1 seqs)\n"
    ).settings
    assert (told.context, told.slots) == (8000, 1)


def test_buffers_on_devices_stand_for_the_cache() -> None:
    log = parse_log(
        "llama_context: n_ctx         = 8192\nllama_kv_cache:    Vulkan0 KV buffer size =   480.00 MiB\n"
        "llama_kv_cache:        CPU KV buffer size =    32.00 MiB\n"
    )
    held = log.first("cache_bytes")
    assert held is not None and held.value == 512 * MIB
    whole = parse_log(
        "llama_kv_cache:      CUDA0 KV buffer size =   512.03 MiB\nllama_kv_cache: size =  512.00 MiB (  8192 cells, 16 layers)\n"
    )
    assert [r.value for r in whole.readings["cache_bytes"]] == [512 * MIB]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("load_tensors:  MTL0_Mapped model buffer size =  5133.75 MiB", "device_weights_bytes"),
        ("load_tensors:  HTP1-REPACK model buffer size =  5133.75 MiB", "device_weights_bytes"),
        ("load_tensors: RPC0[10.0.0.2:50052] model buffer size =  5133.75 MiB", "device_weights_bytes"),
        ("load_tensors:    ROCm_Host model buffer size =  5133.75 MiB", "host_weights_bytes"),
        ("load_tensors:   CPU_REPACK model buffer size =  5133.75 MiB", "host_weights_bytes"),
        ("sched_reserve:       MTL0 compute buffer size =  5133.75 MiB", "compute_buffer_bytes"),
    ],
)
def test_names_of_devices(line: str, name: str) -> None:
    sizes = {key: rows[0].value for key, rows in parse_log(f"{line}\n").readings.items()}
    assert sizes == {name: round(5133.75 * MIB)}


def test_a_hosts_compute_buffer_is_no_devices() -> None:
    text = "llama_context: n_ctx = 512\nsched_reserve: Vulkan_Host compute buffer size =   128.44 MiB\n"
    assert "compute_buffer_bytes" not in parse_log(text).readings


def test_micro_batches_by_the_command() -> None:
    text = "llama-server -b 2048 {} 1024\nllama_context: n_ctx = 512\nsched_reserve: CUDA0 compute buffer size = 1.00 MiB\n"
    for flag in ("--ubatch-size", "-ub"):
        assert parse_log(text.format(flag)).settings.ubatch == 1024
    # what the context says it has comes first
    assert parse_log(text.format("-ub") + "llama_context: n_ubatch      = 512\n").settings.ubatch == 512


def test_an_old_builds_line_tells_it() -> None:
    """Before `sched_reserve` logits of every token of a micro-batch were reserved: 512 × (152,064 + 3584) × 4 B of Qwen2.5-7B."""
    text = "load_tensors: offloaded 29/29 layers to GPU\nllama_context:      CUDA0 compute buffer size =   304.00 MiB\n"
    told = verify_log(text, "Qwen/Qwen2.5-7B-Instruct", fetch=FetchOptions(offline=True))
    (found,) = [item for item in told.result.checks if item.what == "compute buffer"]
    assert found.predicted == 512 * (152_064 + 3584) * 4 and found.verdict == "equal"


def test_a_comma_before_three_digits_divides_thousands() -> None:
    text = "load_tensors:  CUDA0 model buffer size = {} MiB\nllama_context: n_ctx = 512\n"
    for said, size in (("21,574", 21574), ("1,5", 1.5), ("215,74", 215.74)):
        found = parse_log(text.format(said)).first("device_weights_bytes")
        assert found is not None and found.value == round(size * MIB)


def test_a_pasted_log_may_lack_the_windowed_layers() -> None:
    """gpt-oss-20b of ollama with q8_0: 12 layers × 131072 cells × 2 × 512 × 34/32 bytes are logged, the windows are not."""
    log = parse_log(_FULL)
    (item,) = llama_checks(_GPT_OSS, log, Serving(131_072, engine="llama.cpp"))
    assert item.logged == 12 * 131_072 * 2 * 512 * 34 // 32
    assert item.predicted == item.logged + 12 * 768 * 2 * 512 * 34 // 32
    assert cell_bytes(_GPT_OSS, 131_072, "q8_0", "q8_0", full_only=True) == item.logged


def test_micro_batches_by_the_windows() -> None:
    """A Hexagon start printed 256 cells of windows of 128 tokens: micro-batches of at most 128 beside them."""
    log = parse_log(
        "llama_kv_cache_iswa: creating non-SWA KV cache, size = 8192 cells\n"
        "llama_kv_cache: size =  102.00 MiB (  8192 cells,  12 layers,  1/1 seqs), K (q8_0):   51.00 MiB, V (q8_0):   51.00 MiB\n"
        "llama_kv_cache_iswa: creating     SWA KV cache, size = 256 cells\n"
        "llama_kv_cache: size =    3.19 MiB (   256 cells,  12 layers,  1/1 seqs), K (q8_0):    1.59 MiB, V (q8_0):    1.59 MiB\n"
    )
    (item,) = llama_checks(_GPT_OSS, log, Serving(8192, engine="llama.cpp"))
    assert item.reason is not None and "micro-batches of" in item.reason


def test_a_forks_type_of_cache_is_named() -> None:
    log = parse_log(
        "llama_kv_cache: size = 2906.25 MiB ( 25600 cells,  80 layers,  1/1 seqs), K (q8_0): 2125.00 MiB, "
        "V (turbo3):  781.25 MiB\n"
    )
    arch = build("llama", one(FullAttention(64, 8, 128, 128), 80))
    (item,) = llama_checks(arch, log, Serving(25_600, engine="llama.cpp"))
    assert (item.verdict, item.reason) == ("unknown", "llama.cpp has no turbo3 cache")


def test_states_have_copies_to_roll_back_to() -> None:
    """Qwen3.8-27B, four slots, two tokens drafted: 12 × 149.625 MiB (48 layers × (3 × 10240 + 48 × 128 × 128) × 4 bytes)."""
    arch = read_model("Qwen/Qwen3.5-27B", fetch=FetchOptions(offline=True, no_cache=True)).architecture
    assert state_cell_bytes(arch) == 48 * (3 * 10_240 + 48 * 128 * 128) * 4  # 149.625 MiB
    log = parse_log(
        "llama_memory_recurrent: size = 1795.50 MiB (     4 cells,  64 layers,  4 seqs  2 rs_seq), R (f32):   67.50 MiB\n"
    )
    (item,) = llama_checks(arch, log, Serving(8192, engine="llama.cpp"))
    assert (item.what, item.verdict, item.predicted) == ("recurrent states", "equal", 1795.5 * MIB)


@pytest.mark.parametrize(
    ("line", "build_number"),
    [
        ("sched_reserve: graph (pp bs=512, tg bs=1): nodes = 1929, splits = 2", 11000),
        ("llama_context: n_outputs_max = 2", 9500),
        ("sched_reserve: graph nodes  = 1867", 8500),
        ("llama_new_context_with_model: graph nodes  = 3548", 5000),
        ("llama_context: n_ctx = 512", None),
    ],
)
def test_builds_by_their_lines(line: str, build_number: int | None) -> None:
    assert build_told(line) == build_number
    assert parse_log(f"llama_context: n_ctx = 512\n{line}\n").form == build_number


def test_builds_by_name() -> None:
    assert [build_of(name) for name in ("9849 (799fcc04a)", "b9010", None, "0.5.9")] == [9849, 9010, None, None]


def test_buffers_of_a_fitting_pass_are_empty() -> None:
    log = parse_log(
        "load_tensors: CUDA0 model buffer size = 0.00 MiB\nllama_context: n_seq_max = 1\n"
        "llama_kv_cache: CUDA0 KV buffer size = 0.00 MiB\nload_tensors: CUDA0 model buffer size = 15339.44 MiB\n"
        "llama_context: n_seq_max = 1\nllama_context: n_ctx = 32768\n"
        "llama_kv_cache: size = 2048.00 MiB (32768 cells, 16 layers, 1/1 seqs), K (f16): 1024 MiB, V (f16): 1024 MiB\n"
    )
    assert [r.value for r in log.readings["cache_bytes"]] == [2048 * MIB]
    assert [r.value for r in filled(log, "device_weights_bytes")] == [round(15339.44 * MIB)]


@pytest.mark.parametrize("form", ["{}", "- `{}`", "| {} |", '{{"a":1,"fields":"{}"}}'])
def test_a_name_in_what_stands_around_it(form: str) -> None:
    lines = (
        "llama_model_loader: - kv   2: general.name str = Qwen3 8B",
        "print_info: file type   = Q4_K - Medium",
        "llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  1/1 seqs), K (f16):  256.00 MiB",
    )
    told = parse_log("\n".join(form.format(line) for line in lines)).settings
    assert (told.model, told.file_type) == ("Qwen3 8B", "Q4_K - Medium")


@pytest.mark.parametrize(
    "file",
    [
        "Qwen3-8B-UD-Q5_K_M.gguf",
        "Qwen3-8B-ud-q5km.gguf",
        "qwen3-8b-f16.gguf",
        "Qwen3-8B-IQ4_XS.gguf",
        "/models/Qwen3-8B-Q4_K_M-00001-of-00002.gguf",
        "C:\\models\\Qwen3-8B-Q8_0.gguf",
        "Qwen_Qwen3-8B-Q4_K_L.gguf",
        "unsloth_Qwen3-8B-GGUF_Qwen3-8B-Q4_K_M.gguf",
    ],
)
def test_models_by_the_names_of_their_files(file: str) -> None:
    log = (
        f"llama_model_loader: loaded meta data with 20 key-value pairs and 399 tensors from {file} (version GGUF V3)\n"
    )
    log += "llama_kv_cache: size =  576.00 MiB (  4096 cells,  36 layers,  1/1 seqs), K (f16):  288.00 MiB\n"
    found = verify_log(log, fetch=FetchOptions(offline=True, no_cache=True))
    assert found.model == "Qwen/Qwen3-8B"
    assert found.result.checks[0].verdict == "equal"


def test_states_to_roll_back_to_that_a_line_does_not_count() -> None:
    """Qwen3.5-27B drafting six tokens with a line cut short: 7 × 149.62 MiB."""
    text = (
        "llama_kv_cache: size = 16384.00 MiB (262144 cells, 16 layers)\n"
        "llama_memory_recurrent: size = 1047.38 MiB (1 cells, 64 layers)\n"
    )
    found = verify_log(text, "Qwen/Qwen3.5-27B", fetch=FetchOptions(offline=True, no_cache=True)).result
    item = next(item for item in found.checks if item.what == "recurrent states")
    assert item.reason == (
        "fits with 6 states of each sequence to roll back to, as where a draft proposes as many tokens"
    )


@pytest.mark.parametrize(
    ("said", "megabytes"),
    [
        ("llama_context: flash_attn = disabled\n", 556),
        ("llama_context: flash_attn = auto\nllama_context: Flash Attention was auto, set to disabled\n", 556),
        ("llama_context: flash_attn = auto\nresolve_fused_ops: Flash Attention not supported, set to disabled\n", 556),
        ("llama_context: flash_attn = auto\nllama_context: Flash Attention was auto, set to enabled\n", 120),
    ],
)
def test_scores_are_in_the_buffer_where_flash_attention_is_off(said: str, megabytes: int) -> None:
    """Llama 3 8B, 8,192 cells, 512 tokens (today's build): 32 heads × 8192 × 4 bytes each and a mask of 4 a cell; or one of 2."""
    text = (
        f"print_info: general.name = Meta Llama 3 8B\nllama_context: n_ctx = 8192\n{said}"
        f"sched_reserve:      CUDA0 compute buffer size = {megabytes}.00 MiB\nsched_reserve: graph: nodes = 1000\n"
    )
    item = by_name(verify_log(text, "meta-llama/Meta-Llama-3-8B", fetch=OFFLINE).result)["compute buffer"]
    attention = 512 * (8192 * 4 * 33 + 4 * (4096 + 2 * 4096 + 2 * 1024))
    assert (item.predicted == attention == 556 * 2**20) is (megabytes == 556)
    assert item.verdict == ("equal" if megabytes == 556 else "within")
