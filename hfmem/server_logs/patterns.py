"""The lines that engines print, as patterns: what is read of a log, and which lines can hold it.

vLLM (V0 and V1, 0.1 to 0.33: `worker.py`, `gpu_worker.py`, `gpu_model_runner.py`, `kv_cache_utils.py`), SGLang (`model_runner.py`,
`memory_pool.py`, `scheduler.py`) and llama.cpp with its forks (`llama-model.cpp`, `llama-context.cpp`, `llama-kv-cache*.cpp`).
"""

from __future__ import annotations

import re
from typing import Final, Literal

Engine = Literal["vllm", "sglang", "llama.cpp", "tensorrt-llm", "lmdeploy", "tgi"]


ANSI: Final = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]|\[[0-9;]{1,8}m")
CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

SIZE: Final = r"(-?\d{1,9}(?:[.,]\d{1,6})?)\s?([GMK])i?B"
COUNT: Final = r"(\d{1,3}(?:,\d{3}){1,5}|\d{1,18})"

#: a device of llama.cpp's (the names of ggml's backends), but not in the line of a vision encoder
_GPU: Final = (
    r"(?<!compute_meta:      )\b(?:CUDA|Metal|MTL|Vulkan|ROCm|SYCL|MUSA|CANN|HTP|OpenCL|WebGPU|RPC)"
    r"(?!_Host)[\w.:\[\]-]{0,40}"
)
#: what is printed → the name of the reading; the first group is the number, the second its unit
SIZES: Final[tuple[tuple[str, str], ...]] = (
    ("weights_bytes", rf"(?:Loading model weights|[Mm]odel loading) took\s{{1,20}}{SIZE}"),
    ("weights_bytes", rf"model weights take {SIZE}"),
    ("weights_bytes", rf"Actual usage is {SIZE} for weight\b"),
    ("weights_bytes", rf"Load weight end\.[^\n]{{0,200}}?mem usage={SIZE}"),
    ("checkpoint_bytes", rf"Filesystem type for checkpoints: \w{{1,20}}\. Checkpoint size: {SIZE}"),
    ("before_bytes", rf"Load weight begin\. avail mem={SIZE}"),
    ("after_bytes", rf"Load weight end\.[^\n]{{0,300}}?avail mem={SIZE}"),
    ("consumed_bytes", rf"Actual usage is {SIZE} for consumed memory"),
    ("available_bytes", rf"Available KV cache memory: {SIZE}"),
    ("available_bytes", rf"reserved for KV Cache is {SIZE}"),
    ("available_bytes", rf"Memory profiling results: [^\n]{{1,300}}?kv_cache_size={SIZE}"),
    ("available_bytes", rf"than the available KV cache memory \({SIZE}\)"),
    ("available_bytes", rf"KV cache is needed, but only {SIZE} is available"),
    ("available_bytes", rf"reserved {SIZE} memory for KV Cache"),
    ("available_bytes", rf"Current kv cache memory in use is {SIZE}"),
    ("needed_bytes", rf"\(?{SIZE} KV cache is needed"),
    ("activations_bytes", rf"activation peak memory takes {SIZE}"),
    ("activations_bytes", rf"{SIZE} for peak activation"),
    ("engine_bytes", rf"non_torch_memory takes {SIZE}"),
    ("engine_bytes", rf"{SIZE} for non-torch memory"),
    ("graph_estimate_bytes", rf"Estimated CUDA graph memory: {SIZE}"),
    ("cuda_graph_bytes", rf"Graph capturing finished in \d{{1,6}}(?:\.\d{{1,6}})? secs?, took {SIZE}"),
    ("cuda_graph_bytes", rf"{SIZE} for CUDAGraph memory"),
    ("cuda_graph_bytes", rf"Capture (?:cuda|target \w+|decode) graph end\.[^\n]{{0,80}}?mem usage={SIZE}"),
    ("device_bytes", rf"total_gpu_memory \({SIZE}\)"),
    ("device_bytes", rf"Memory profiling results: [^\n]{{1,100}}?total_gpu_memory={SIZE}"),
    ("budget_bytes", rf"gpu_memory_utilization \(\d(?:\.\d{{1,6}})?\) = {SIZE}"),
    ("budget_bytes", rf"Desired GPU memory utilization is \(\d(?:\.\d{{1,6}})?, {SIZE}\)"),
    ("key_bytes", rf"K size: {SIZE}"),
    ("value_bytes", rf"(?<!K)V size: {SIZE}"),
    ("cache_bytes", rf"(?:#tokens: \d{{1,15}}, )KV size: {SIZE}"),
    ("cache_bytes", rf"(?:KV self size|kv self size)\s{{0,4}}=\s{{0,8}}{SIZE}"),
    ("reserved_bytes", rf"Reserving {SIZE} of the KV budget"),
    ("pools_bytes", rf"SWAKVPool mem usage: {SIZE}"),
    ("convolution_bytes", rf"\bconv_state size: {SIZE}"),
    ("ssm_bytes", rf"[, ]ssm_state size: {SIZE}"),
    ("cache_part_bytes", rf"llama_kv_cache(?:_unified)?: +size = +{SIZE}"),
    ("cache_buffer_bytes", rf"llama_kv_cache\w{{0,12}}: +[\w.:\[\]-]{{1,40}} KV buffer size = +{SIZE}"),
    ("state_bytes", rf"llama_memory_recurrent: +size = +{SIZE}"),
    ("output_buffer_bytes", rf"(?:CPU|Metal|MTL\d|\w{{1,12}}_Host|Host) +output buffer size = +{SIZE}"),
    ("compute_buffer_bytes", rf"(?!HTP){_GPU} compute buffer size = +{SIZE}"),
    (
        "device_weights_bytes",
        rf"load_tensors: +{_GPU} (?:model )?buffer size = +{SIZE}",
    ),
    ("host_weights_bytes", rf"\b(?:CPU\w{{0,12}}|AMX|BLAS|[A-Za-z]{{3,8}}_Host) (?:model )?buffer size = +{SIZE}"),
    # Ollama's own runner (`ml/device.go`), for each device
    ("device_weights_bytes", rf'msg="model weights" device=(?!CPU)[^\s]{{1,40}} size="{SIZE}"'),
    ("host_weights_bytes", rf'msg="model weights" device=CPU size="{SIZE}"'),
    ("cache_buffer_bytes", rf'msg="kv cache" device=[^\s]{{1,40}} size="{SIZE}"'),
    ("allocated_bytes", rf"Allocated {SIZE} for max tokens in paged KV cache"),
    ("weights_bytes", rf"Loaded engine size: {SIZE}"),
    ("block_bytes", rf"\[BlockManager\] block_size = {SIZE}"),
    ("file_bytes", rf"(?:model size|file size) +=\s{{1,8}}{SIZE}"),
)
COUNTS: Final[tuple[tuple[str, str], ...]] = (
    ("num_blocks", rf"# (?:GPU|CUDA|cuda|rocm|xpu) blocks: {COUNT}"),
    ("capacity_tokens", rf"GPU KV cache size: {COUNT} tokens"),
    ("capacity_tokens", rf"stored in KV cache \({COUNT}\)"),
    ("pool_tokens", rf"KV Cache is allocated\.[^\n]{{0,60}}?#tokens: {COUNT}"),
    ("capacity_tokens", rf"max_total_num_tokens={COUNT}"),
    ("allocated_tokens", rf"for max tokens in paged KV cache \({COUNT}\)"),
    ("num_blocks", rf"\[BlockManager\] max_block_count = {COUNT}"),
    ("batch_tokens", rf"Setting max batch total tokens to {COUNT}"),
    ("full_tokens", rf"full size: {COUNT}"),
    ("windowed_tokens", rf"swa size: {COUNT}"),
    ("encoder_tokens", rf"Encoder cache will be initialized with a budget of {COUNT} tokens"),
    ("state_slots", rf"max_mamba_cache_size: {COUNT}"),
    ("state_cells", rf"llama_memory_recurrent: +size = [^(\n]{{1,24}}\( {{0,8}}{COUNT} cells"),
    ("rollback_states", rf"llama_memory_recurrent: +size = [^(\n]{{1,24}}\([^)\n]{{1,60}}? {COUNT} rs_seq\)"),
    ("concurrency_context", rf"Auto-fit max_model_len: reduced from \d{{1,12}} to {COUNT}"),
    ("concurrency_context", rf"Maximum concurrency for {COUNT} tokens per request"),
    ("needed_context", rf"max seq(?:uence)? len(?:gth)? \({COUNT}\)"),
    ("max_context", rf"estimated maximum model length is {COUNT}"),
    ("output_rows", rf"\bn_outputs_max +[=:] +{COUNT}"),
    ("offloaded_layers", rf"offloaded {COUNT}/\d{{1,5}} layers"),
    ("attention_page", rf"Setting attention block size to {COUNT} tokens"),
    ("override_blocks", rf"(?<!num_gpu_blocks=0 with )num_gpu_blocks_override={COUNT}"),
)
FACTORS: Final[tuple[tuple[str, str], ...]] = (
    ("max_concurrency", rf"Maximum concurrency for {COUNT} tokens per request: (\d{{1,9}}(?:\.\d{{1,6}})?)x"),
)
#: how many graphs of which kinds vLLM will capture, and the largest of each
GRAPHS: Final = re.compile(
    r"Profiling CUDA graph memory: (?:PIECEWISE=(\d{1,4}) \(largest=(\d{1,6})\))?(?:, )?(?:FULL=(\d{1,4}) \(largest=(\d{1,6})\))?"
)
_GIB: Final = r"(\d{1,6}(?:\.\d{1,4})?)"
DEVICE_MEMORY: Final = re.compile(rf"Free memory on device \((?:cuda:\d{{1,3}}, )?{_GIB}/{_GIB} GiB\)")
#: name, pattern, and what must be in a text for one that begins with a number, of which a paste may hold many thousands
COMPILED: Final = tuple(
    (name, re.compile(text), text.partition(SIZE)[2] if text.removeprefix(r"\(?").startswith(SIZE) else "")
    for name, text in (*SIZES, *COUNTS, *FACTORS)
)
IS_SIZE: Final = frozenset(name for name, _ in SIZES)

#: so many of `ENGINES` are what only one engine prints
DECISIVE: Final = 3
#: what only one engine prints, and then what merely names one
ENGINES: Final[tuple[tuple[Engine, str], ...]] = (
    (
        "sglang",
        r"ServerArgs\(|server_args=|KV Cache is allocated|SWAKVPool|Mamba Cache is allocated|max_total_num_tokens=|Load weight end",
    ),
    (
        "llama.cpp",
        r"llama_model_loader|llama_new_context|llama_kv_cache|llama_init_from|llm_load_|llama_context:|llama_memory_"
        r"|load_tensors: |sched_reserve: |msg=\"(?:model weights|kv cache)\" device=",
    ),
    (
        "vllm",
        r"LLM (?:engine|server) \(v|GPU KV cache size|# (?:GPU|CUDA|cuda) blocks|Available KV cache memory|model weights take",
    ),
    ("vllm", r"Loading model weights took|Model loading took|tokens that can be stored in KV cache|KV cache is needed"),
    (
        "tensorrt-llm",
        r"for max tokens in paged KV cache|\[TRT-LLM\] \[|\[TensorRT-LLM\]\[INFO\] (?:TRTGptModel|Loaded engine)",
    ),
    ("lmdeploy", r"\[BlockManager\] |\[TM\]\[[A-Z]{4,8}\]|\blmdeploy serve\b"),
    ("tgi", r"text_generation_(?:launcher|router)|Setting max batch total tokens to \d"),
    ("vllm", r"kv cache memory in use|gpu_model_runner|vllm serve|vLLM API server"),
    ("sglang", r"sglang"),
    ("vllm", r"vllm|vLLM"),
)
#: containers' names before their lines, as compose and kubectl put them
STREAM: Final = re.compile(r"^(?:\[pod/([^\]\s]{1,200})\] |([\w.-]{1,80}) +\| )")
#: engines whose lines are read and for which there are no rules, and what people call them
FOREIGN: Final[dict[Engine, str]] = {
    "tensorrt-llm": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
    "tgi": "TGI (text-generation-inference)",
}
#: one of these is in every line that is read; a long-lived server's log is mostly other lines
WORDS: Final = (
    *(" -", "--", "vllm", "vLLM", "sglang", "llama_", "llm_", "LLM", "config", "args", "Args", "version", "build"),
    *("GPU", "cuda", "CUDA", "KV", "kv", "took", "take", "weight", "memory", "graph", "buffer", "size", "seq len"),
    *(
        "model length",
        "blocks",
        "concurrency",
        "tokens=",
        "general.name",
        "n_ctx",
        "n_ubatch",
        "flash_attn",
        "n_seq_max",
    ),
    *(
        "budget",
        "profiling",
        "compile range",
        "max model len",
        "load model",
        "█",
        "HF snapshot",
        "models--",
        "repo_url",
        "world size",
        "capability",
        "arguments",
        "rocm",
        "ROCm",
        "gfx",
    ),
    *(
        "Hybrid KV",
        "hybrid kv",
        "Checkpoint size",
        "draft",
        "served",
        "file type",
        "ftype",
        "FlashInfer",
        "FlashAttention",
        "Flash Attention",
        "Asynchronous",
        "text-only",
        "KvSize",
        "file_type=",
        "[BlockManager]",
        "text_generation",
        "batch total",
        "[TM]",
        "n_slots",
    ),
)
#: … and one of these in every line that a size is read from
SIZE_WORDS: Final = (
    *("took", "take", "sage is", "usage=", "avail mem", "KV", "kv cache", "KV cache", "CUDAGraph", "total_gpu_memory"),
    *(
        "utilization",
        " size",
        "blocks",
        "Auto-fit",
        "Checkpoint",
        "seq",
        "model length",
        "override",
        "peak activation",
        "non-torch",
    ),
    *("[BlockManager]", "Loaded engine"),
    *("non_torch", "tokens", "graph", "Free memory", "full size", "offloaded", "budget"),
)
#: what llama.cpp says while it loads a model, before the context that a start begins with
LOADED: Final = ("device_weights_bytes", "host_weights_bytes", "offloaded_layers", "file_bytes")
#: … and one of these in a line of traffic
TRAFFIC: Final = ("throughput:", "HTTP/1.1", "#running-req", "Received request", "print_timing", "update_slots")
VERSIONS: Final = (
    r"Initializing an? (?:V[01] )?LLM engine \(v([\w.+]{1,60})\)",
    r"vLLM (?:API server )?version v?(\d[\w.+]{1,60})",
    r"█ {1,6}version (\d[\w.+]{1,60})",
    r"sglang[=: v`]{1,4}(\d[\w.+]{1,40})",
    r"\bversion: (b?\d{3,6}(?: \([0-9a-f]{6,12}\)|(?=-[0-9a-f]{6,12})))",
    r"\bbuild[:=] ?(\d{3,6}(?: \([0-9a-f]{6,12}\))?)",
    r"\bbuild_info: (b\d{3,6})",
    r"\b(?:vLLM|vllm)(?:-openai)?(?:[:=*`\s]{1,6}|-)v?(0\.\d{1,2}\.\d[\w.+]{0,50})",
)
#: where a start begins: what its server says first, and what its engine says first (of llama.cpp a context)
STARTS: Final[dict[Engine, tuple[re.Pattern[str], re.Pattern[str]]]] = {
    "vllm": (
        re.compile(r"vLLM API server version|Initializing an? (?:V[01] )?LLM (?:engine|server)"),
        re.compile(r"Initializing an? (?:V[01] )?LLM (?:engine|server)"),
    ),
    **{engine: (re.compile(r"(?!)"), re.compile(r"(?!)")) for engine in FOREIGN},
    "sglang": (re.compile(r"server_args=(?:ServerArgs\(|\{)"), re.compile(r"server_args=(?:ServerArgs\(|\{)")),
    "llama.cpp": (
        re.compile(
            r"llama_(?:context|new_context_with_model|init_from_model): n_ctx +[=:]"
            r"|msg=load request=\"{Operation:commit [^\n]{0,80}KvSize:"
        ),
        re.compile(r"llama_model_loader: loaded meta data"),
    ),
}
#: layers of logging that put each line into an object of JSON, and where they put it, itself or in an object there
JSON_KEYS: Final = ("log", "message", "msg", "textpayload", "line", "body", "event", "@message", "jsonpayload", "data")
