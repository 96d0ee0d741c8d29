"""How a model is to be served: the second input, beside the architecture, of every rule in `hfmem.memory`."""

from __future__ import annotations

from typing import Final

from hfmem.errors import UsageError
from hfmem.memory.formats import canonical_kv_dtype, canonical_state_dtype
from hfmem.records import dataclass, replace

#: the name that `--engine` takes → the engine's module, in the order in which a report shows them
ENGINES: Final[dict[str, str]] = {
    "ideal": "hfmem.memory.engines.ideal",
    "vllm": "hfmem.memory.engines.vllm",
    "transformers": "hfmem.memory.engines.transformers",
    "sglang": "hfmem.memory.engines.sglang",
    "llama.cpp": "hfmem.memory.engines.llama_cpp",
}
#: other spellings of them, in lower case
#: what people serve with that has llama.cpp inside and settings of its own
_LLAMA_CPPS: Final = frozenset({"ollama", "lmstudio", "lm-studio", "koboldcpp", "jan", "llamafile"})
_SPELLED: Final[dict[str, str]] = {"llamacpp": "llama.cpp", "llama-cpp": "llama.cpp", "llama_cpp": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Settings that only llama.cpp has.

    `gpu_layers` of the layers, the output counted as one, go to the devices (`-ngl`; None: all); the routed experts of the first
    `cpu_moe_layers` stay on the host (`--n-cpu-moe`). `value_dtype` is the values' format where it differs from the keys' (`-ctv`).
    `swa_full` keeps every token in windowed layers, `unified` shares one context out over the sequences. `flash_attention` is
    `auto`, `on` or `off` (`-fa`), `ubatch` the tokens of a micro-batch (`-ub`; None: 512); with `kv_offload` False the cache stays
    on the host (`-nkvo`), and attention with it.
    """

    gpu_layers: int | None = None
    cpu_moe_layers: int = 0
    value_dtype: str | None = None
    swa_full: bool = False
    unified: bool = False
    flash_attention: str = "auto"
    ubatch: int | None = None
    kv_offload: bool = True

    def __post_init__(self) -> None:
        for name, value in (("gpu_layers", self.gpu_layers or 0), ("cpu_moe_layers", self.cpu_moe_layers)):
            if value < 0:
                raise UsageError(f"{name} must be at least 0, not {value}")
        if self.ubatch is not None and self.ubatch < 1:
            raise UsageError(f"ubatch must be at least 1, not {self.ubatch}")
        if self.flash_attention not in ("auto", "on", "off"):
            raise UsageError(f"flash_attention is auto, on or off, not {self.flash_attention!r}")
        if self.value_dtype is not None:
            object.__setattr__(self, "value_dtype", canonical_kv_dtype(self.value_dtype))


#: settings that only vLLM has
_VLLMS: Final = ("language_model_only", "dcp", "one_kind_of_page", "synchronous", "cpu_offload_bytes", "num_gpu_blocks")
#: settings that only SGLang has → the most they may be
_SGLANGS: Final = {"swa_full_tokens_ratio": 1.0, "mamba_full_memory_ratio": 1000.0}
#: transformers' caches
CACHE_IMPLEMENTATIONS: Final = ("dynamic", "static", "offloaded", "offloaded_static")
#: nothing set
LLAMA_CPP: Final = LlamaCpp()


@dataclass(frozen=True, slots=True)
class Serving:
    """One serving configuration.

    `context` is the tokens of one sequence, `num_seqs` how many such sequences there are at once over all replicas. `engine` and
    `kv_dtype` are stored in their canonical spelling. `declared_kv_dtype` is what the checkpoint itself declares for its cache
    (ModelOpt's `kv_cache_quant_algo`, compressed-tensors' `kv_cache_scheme`) and what `auto` then means. `source_tokens` is the
    length of an encoder's output where the model sets no maximum (T5, or the vision tokens of Mllama's images).

    `attn_dp` is SGLang's: groups inside the `tp` ranks that each hold their own sequences, while feed-forward layers stay shared.

    `max_num_batched_tokens` and `page_size` None: the engine's own default. `kv_memory_bytes` is the memory of one rank's cache
    pool. `ep` True: experts are dealt out over all `tp × dp` ranks. `enable_prefix_caching` None: the engine's own default.
    `compute_capability` is the NVIDIA device's (90: Hopper), which decides vLLM's attention kernels and their pages. `llama_cpp`
    holds what only that engine can be told.

    `max_num_seqs` is the engine's own limit, None: its default. `eager`: no CUDA graphs are captured. `language_model_only`: towers
    for images and sound are not loaded. `pooling`: the model embeds or ranks; it has no head and samples nothing.

    `swa_full_tokens_ratio` and `mamba_full_memory_ratio` are SGLang's: tokens of the windowed pool to those of the full one, and
    states' memory to the cache's; None: its defaults. `steps_in_flight` is vLLM's: engine steps that are scheduled at once; None:
    one more than the pipeline's stages, as today. `device_batched_tokens` is what vLLM takes on the device for
    `max_num_batched_tokens` where that is not told. `speculative_tokens` are those a draft proposes at once, for which vLLM keeps a
    state each. `max_total_tokens` is SGLang's: the most tokens of a pool, whatever the memory holds.
    `cache_implementation` is transformers': how `generate` keeps keys and values.
    `state_dtype` is that of recurrent states as a server was told it (vLLM's `--mamba-ssm-cache-dtype`, SGLang's
    `--mamba-ssm-dtype`), by its name in safetensors.

    vLLM's: `dcp` groups among the `tp` ranks hold a token each in turn (decode context parallelism); `one_kind_of_page`: windowed
    layers keep every token (`--disable-hybrid-kv-cache-manager`); `synchronous`: no step is scheduled before the last one is done;
    `cpu_offload_bytes`: of weights that a rank may leave in the host's memory (`--cpu-offload-gb`);
    `num_gpu_blocks`: of the pool, whatever memory there is (`--num-gpu-blocks-override`);
    `prefill_checkpoints`: recurrent layers keep a state of their prefill where their kernel exports one, as they have since 0.33.

    Raises:
        UsageError: a count below one, or a name that is no engine or KV dtype.
    """

    context: int
    num_seqs: int = 1
    kv_dtype: str = "auto"
    engine: str = "vllm"
    tp: int = 1
    pp: int = 1
    ep: bool = False
    dp: int = 1
    max_num_batched_tokens: int | None = None
    page_size: int | None = None
    kv_memory_bytes: int | None = None
    declared_kv_dtype: str | None = None
    source_tokens: int | None = None
    enable_prefix_caching: bool | None = None
    compute_capability: int = 90
    attn_dp: int = 1
    llama_cpp: LlamaCpp = LLAMA_CPP
    max_num_seqs: int | None = None
    eager: bool = False
    language_model_only: bool = False
    pooling: bool = False
    swa_full_tokens_ratio: float | None = None
    mamba_full_memory_ratio: float | None = None
    steps_in_flight: int | None = None
    device_batched_tokens: int | None = None
    speculative_tokens: int = 0
    max_total_tokens: int | None = None
    cache_implementation: str = "dynamic"
    state_dtype: str | None = None
    dcp: int = 1
    one_kind_of_page: bool = False
    synchronous: bool = False
    prefill_checkpoints: bool = True
    cpu_offload_bytes: int = 0
    num_gpu_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "num_seqs", "tp", "pp", "dp", "attn_dp", "dcp"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        for name in (
            "max_num_batched_tokens",
            "page_size",
            "kv_memory_bytes",
            "source_tokens",
            "max_num_seqs",
            "num_gpu_blocks",
            "max_total_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.cpu_offload_bytes < 0:
            raise UsageError(f"cpu_offload_bytes must be at least 0, not {self.cpu_offload_bytes}")
        name = self.engine.lower()
        object.__setattr__(self, "engine", _SPELLED.get(name, name))
        if self.engine not in ENGINES:
            hint = "; it runs llama.cpp: --engine llama.cpp" if name in _LLAMA_CPPS else ""
            raise UsageError(f"engine {name!r} is not one of {', '.join(ENGINES)}{hint}")
        if self.attn_dp > 1 and self.engine != "sglang":
            raise UsageError(
                f"attn_dp is SGLang's: {self.engine} has --dp" if self.engine == "vllm" else "attn_dp is SGLang's"
            )
        for name in _VLLMS:
            value = getattr(self, name)
            if self.engine != "vllm" and (value is True or (value not in (None, False) and value > 1)):
                raise UsageError(f"{name}: only vLLM has that setting, not {self.engine}")
        for name, most in _SGLANGS.items():
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio <= most:
                raise UsageError(f"{name} must be above 0 and at most {most:g}, not {ratio}")
            if ratio is not None and self.engine != "sglang":
                raise UsageError(f"{name}: only SGLang has that setting, not {self.engine}")
        if self.cache_implementation not in CACHE_IMPLEMENTATIONS:
            known = ", ".join(CACHE_IMPLEMENTATIONS)
            raise UsageError(f"cache_implementation is one of {known}, not {self.cache_implementation!r}")
        if self.cache_implementation != "dynamic" and self.engine != "transformers":
            raise UsageError(f"cache_implementation: only transformers has that setting, not {self.engine}")
        if self.max_total_tokens is not None and self.engine != "sglang":
            raise UsageError(f"max_total_tokens: only SGLang has that setting, not {self.engine}")
        if self.tp % self.attn_dp:
            raise UsageError(
                f"{self.attn_dp} groups of data-parallel attention do not share {self.tp} tensor-parallel ranks"
            )
        if self.llama_cpp != LLAMA_CPP and self.engine != "llama.cpp":
            names = [
                name for name in LLAMA_CPP.__match_args__ if getattr(self.llama_cpp, name) != getattr(LLAMA_CPP, name)
            ]
            raise UsageError(f"{', '.join(names)}: only llama.cpp has that setting, not {self.engine}")
        if self.state_dtype is not None:
            object.__setattr__(self, "state_dtype", canonical_state_dtype(self.state_dtype))
        object.__setattr__(self, "kv_dtype", canonical_kv_dtype(self.kv_dtype))
        if self.declared_kv_dtype is not None:
            object.__setattr__(self, "declared_kv_dtype", canonical_kv_dtype(self.declared_kv_dtype))

    def alone(self, engine: str) -> Serving:
        """The same load under another engine's rules on one rank, with that engine's defaults."""
        plain = replace(self, tp=1, pp=1, dp=1, ep=False, attn_dp=1, dcp=1, llama_cpp=LLAMA_CPP)
        if engine != "transformers":
            plain = replace(plain, cache_implementation="dynamic")
        if engine != "sglang":
            plain = replace(plain, swa_full_tokens_ratio=None, mamba_full_memory_ratio=None, max_total_tokens=None)
        if engine == "vllm":
            return replace(plain, engine=engine)
        plain = replace(plain, language_model_only=False, one_kind_of_page=False, synchronous=False)
        return replace(plain, engine=engine, cpu_offload_bytes=0, num_gpu_blocks=None)

    @property
    def num_ranks(self) -> int:
        """Devices in all: tensor × pipeline × data parallel."""
        return self.tp * self.pp * self.dp

    @property
    def attn_tp(self) -> int:
        """Tensor-parallel ranks that share a sequence's cache."""
        return self.tp // self.attn_dp

    @property
    def num_seqs_per_replica(self) -> int:
        """Sequences on the busiest data-parallel replica, or group of one."""
        return -(-self.num_seqs // (self.dp * self.attn_dp))
