"""The grid of models, contexts, pages, layouts and formats on a real device, in the tables' own configurations.

Everything here needs a GPU and is reported as skipped without one: the interpreter takes a minute for a thousand tokens.

What it costs is compilation, three to five seconds of a CPU for each kernel that differs; running a case takes milliseconds, its
inputs and its oracle some tenths of a second. The axes are therefore crossed where they meet in the code and not all with all:
`test_the_grid_stays_small` counts the cases. `pytest -n 8 -m gpu tests/paged_decode` shares
them, and those of `test_gpu_latents.py` and `test_gpu_calls.py`, among processes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from gpu_cases import FORMATS, LLAMA, MODELS, check, gpu

from hfmem_kernels.layout import Layout
from hfmem_kernels.testing import Case

SHORT = {"four_odd": (4097, 1, 523, 2011), "sixteen": tuple(101 * i for i in range(16))}
LONG = {"one_17k": (17000,), "ragged": (20000, *([700] * 15), 0, 0, 3)}
#: what is left of formats × scales
OTHER_FORMATS = [
    (dtype, scales)
    for dtype in ("float8_e4m3fn", "float8_e5m2", "int8")
    for scales in ("none", "tensor", "head", "token")
    if (dtype, scales) not in FORMATS.values()
]
PAGES = (1, 16, 64, 256, 528, 672, 1072)
#: (key, value) columns beyond the models'
DIMS = ((64, 64), (80, 80), (96, 96), (112, 112), (128, 64), (192, 192), (512, 512), (40, 72), (256, 128), (13, 5))
FEATURES = {
    "window": {"window": 100},
    "softcap": {"softcap": 5.0, "magnitude": 8.0},
    "sinks": {"sinks": True},
    "alibi": {"alibi": True},
    "everything": {"window": 100, "softcap": 5.0, "sinks": True, "alibi": True},
    "extreme_logits": {"magnitude": 1e3},
}


@gpu
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lengths", SHORT)
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_models(model: str, lengths: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=SHORT[lengths], cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("model", ["llama_3_1_8b", "llama_70b_tp8", "gemma_3_window"])
@pytest.mark.parametrize("lengths", LONG)
@pytest.mark.parametrize("cache", FORMATS)
def test_long_and_ragged(model: str, lengths: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=LONG[lengths], cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize(("dtype", "scales"), OTHER_FORMATS)
def test_formats_and_scales(dtype: str, scales: str) -> None:
    check(replace(LLAMA, seq_lens=(700, 0, 33), cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cache_dtype", [None, "float8_e4m3fn", "int8"])
def test_query_dtypes(dtype: str, cache_dtype: str | None) -> None:
    scales = "head" if cache_dtype else "none"
    check(replace(LLAMA, seq_lens=(700, 0, 33), dtype=dtype, cache_dtype=cache_dtype, scales=scales))


@gpu
@pytest.mark.parametrize("dims", DIMS, ids=lambda d: f"{d[0]}_{d[1]}")
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_head_dims(dims: tuple[int, int], cache: str) -> None:
    dtype, scales = FORMATS[cache]
    case = Case((900, 0, 17), num_heads=8, num_kv_heads=2, head_dim=dims[0], v_head_dim=dims[1])
    check(replace(case, cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("order", Layout)
def test_pages_and_layouts(page_size: int, order: Layout) -> None:
    """Lengths around the pages' edges; table entries behind a sequence's end are -1, foreign slots NaN."""
    lengths = (3000, 17, 0, 1073, page_size, 2 * page_size + 1, max(1, page_size - 1))
    check(replace(LLAMA, seq_lens=lengths, page_size=page_size, cache_layout=order))


@gpu
@pytest.mark.parametrize(
    ("page_size", "order"), [(p, Layout.NHD) for p in PAGES] + [(16, o) for o in Layout if o is not Layout.NHD]
)
@pytest.mark.parametrize("cache", ["e4m3_tensor", "int8_token"])
def test_pages_and_layouts_of_8_bits(page_size: int, order: Layout, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    case = replace(LLAMA, seq_lens=(3000, 17, 0, 1073), page_size=page_size, cache_layout=order)
    check(replace(case, cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("q_len", [2, 3, 4, 8])
@pytest.mark.parametrize("model", MODELS)
def test_speculative_queries(q_len: int, model: str) -> None:
    check(replace(MODELS[model], seq_lens=(2049, 5, 300), q_len=q_len))


@gpu
@pytest.mark.parametrize("q_len", [2, 8])
@pytest.mark.parametrize("model", ["llama_3_1_8b", "gemma_3_window", "gpt_oss", "mimo_v2"])
def test_speculative_queries_in_fp8(q_len: int, model: str) -> None:
    check(replace(MODELS[model], seq_lens=(2049, 5, 300), q_len=q_len, cache_dtype="float8_e4m3fn", scales="tensor"))


@gpu
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("cache", FORMATS)
@pytest.mark.parametrize("ragged_queries", [False, True], ids=["even", "varlen"])
def test_features(feature: str, cache: str, ragged_queries: bool) -> None:
    """With q_len 3, or as many queries of each sequence as it likes, none included."""
    dtype, scales = FORMATS[cache]
    queries = {"q_lens": (2, 0, 8, 1)} if ragged_queries else {"q_len": 3}
    case = replace(LLAMA, seq_lens=(900, 0, 65, 128), cache_dtype=dtype, scales=scales)
    check(replace(case, **queries, **FEATURES[feature]))  # type: ignore[arg-type]


@gpu
@pytest.mark.parametrize("window", [1, 15, 16, 17, 64, 4096])
@pytest.mark.parametrize("q_len", [1, 4])
def test_windows_at_page_edges(window: int, q_len: int) -> None:
    """Pages that a window has left are -1 in the table and belong to others."""
    check(replace(LLAMA, seq_lens=(48, 64, 65, 1000, 16), window=window, q_len=q_len))


@gpu
@pytest.mark.parametrize("batch", [33, 200, 1500])
def test_batches_that_are_scanned_in_blocks(batch: int) -> None:
    check(Case(tuple((37 * b) % 90 for b in range(batch)), num_heads=4, num_kv_heads=1, head_dim=64))


def test_the_grid_stays_small(request: pytest.FixtureRequest) -> None:
    """Runs anywhere. If every case were a kernel of its own: 400 · 4 s over eight processes are 200 s, within four minutes."""
    cases = sum("test_gpu_" in item.nodeid for item in request.session.items)
    assert 0 < cases <= 400
