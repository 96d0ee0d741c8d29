"""What to launch: the settings of a report as an engine's command line has them."""

from __future__ import annotations

from hfmem.memory.drafts import Method
from hfmem.memory.serving import LLAMA_CPP, LlamaCpp
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """What to launch under which engine; sizes None are left to its defaults.

    `model` is a Hub id or a path, `is_gguf` whether llama.cpp can read it as it is, `file` the one that was read in a Hub
    repository of GGUF files. `num_seqs` 1 leaves the limit to the engine,
    unless `max_num_seqs` says it. `gpus_per_node` None: all devices are in one machine. `beyond_positions`: the context is longer
    than what the model was trained for, which engines want said. `pool_tokens` are those of a pool that is given, for
    engines that are told in tokens. `draft_tokens` are those that `draft` proposes at once; None: SGLang's own number.
    `draft_method` is how it drafts, `draft_class` the class that its config names, `draft_words_differ` whether its vocabulary
    has another size.
    """

    model: str
    revision: str | None
    engine: str
    context: int
    num_seqs: int
    max_num_seqs: int | None = None
    eager: bool = False
    language_model_only: bool = False
    kv_dtype: str = "auto"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    utilization: float | None = None
    max_num_batched_tokens: int | None = None
    page_size: int | None = None
    enable_prefix_caching: bool | None = None
    quant: str | None = None
    dtype: str | None = None
    attn_dp: int = 1
    dcp: int = 1
    state_dtype: str | None = None
    cache_implementation: str = "dynamic"
    swa_full_tokens_ratio: float | None = None
    mamba_full_memory_ratio: float | None = None
    one_kind_of_page: bool = False
    synchronous: bool = False
    cpu_offload_bytes: int = 0
    kv_memory_bytes: int | None = None
    num_gpu_blocks: int | None = None
    pool_tokens: int | None = None
    lora: str | None = None
    max_loras: int | None = None
    max_lora_rank: int | None = None
    draft: str | None = None
    draft_tokens: int | None = None
    draft_method: Method = "model"
    draft_class: str = ""
    draft_words_differ: bool = False
    llama_cpp: LlamaCpp = LLAMA_CPP
    beyond_positions: bool = False
    is_gguf: bool = True
    file: str | None = None
    vendor: str = "nvidia"
    gpus_per_node: int | None = None

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.tp * self.pp * self.dp

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return -(-self.num_devices // self.gpus_per_node) if self.gpus_per_node else 1
