"""LoRA adapters: what an adapter is, and the room that an engine keeps for adapters beside a model.

vLLM 0.33.0 (`lora/layers`) allocates at start, for `max_loras` adapters of `max_lora_rank`, an A of `rank × inputs` and a B of
`outputs × rank` at every linear layer of the language model, whichever the adapters use, and at the embedding and the head of
classes with `embedding_modules`; B is split like a column-split layer's output, A like a row-split layer's input. SGLang 0.5
(`lora/mem_pool.py`) keeps such buffers for the target modules alone. Other programs hold the adapters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding, share
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Column, Component, ExpertSplit, Row, TensorSpec
from hfmem.records import dataclass

#: what `--max-lora-rank` may be (`config/lora.py`), and its default
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK: Final = 16
#: model types whose vLLM class has `embedding_modules`: the embedding and the head take adapters too
_EMBEDDING: Final = frozenset(
    [
        *(
            "apertus",
            "exaone",
            "exaone4",
            "exaone_moe",
            "falcon_h1",
            "granite",
            "granitemoe",
            "granitemoehybrid",
            "jamba",
        ),
        *(
            "granitemoeshared",
            "lfm2",
            "lfm2_moe",
            "llama",
            "minicpm",
            "mixtral",
            "nemotron",
            "nemotron_h",
            "nemotron_h_puzzle",
            "nemotron-nas",
        ),
        *("phimoe", "qwen3", "qwen3_moe", "solar"),
    ]
)
#: vLLM's limit of the vocabulary under LoRA (`layers/logits_processor.py`)
_MAX_VOCABULARY: Final = 258_048
#: adapters are kept in the model's own half precision
_DTYPE_BYTES: Final = 2
_MAX_RANK: Final = 1 << 16
_MATRIX_PARTS: Final = frozenset({Component.ATTENTION, Component.MLP, Component.EXPERTS})
_A: Final = re.compile(r"(^|\.)(lora_A|lora_embedding_A|lora_down)(\.|$)")
_MODULE: Final = re.compile(r"([A-Za-z0-9_]+)\.(?:lora_|weight)")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter. `rank` is the largest of its layers, `bytes` those of its tensors."""

    id: str
    method: str
    rank: int
    alpha: float | None
    target_modules: tuple[str, ...]
    parameters: int
    bytes: int
    dtypes: Mapping[str, int]
    base_model: str | None


def read_adapter(repo_id: str, config: Mapping[str, Any], checkpoint: Checkpoint, base: str | None) -> Adapter:
    """The adapter that a PEFT config and its weights describe; ranks and modules come from the weights.

    Raises:
        UnsupportedError: no low-rank adapter (IA³, prompt tuning …), or one whose rank cannot be.
    """
    method = str(config.get("peft_type") or "LORA").upper()
    shapes = [group.shape for group in checkpoint.groups if _A.search(group.pattern) and group.shape]
    rank = max((shape[0] if len(shape) < 3 else min(shape[:2]) for shape in shapes), default=0)
    said = config.get("r")
    if not shapes or method not in ("LORA", "ADALORA"):
        raise UnsupportedError(f"{repo_id}: an adapter of type {method[:40]}; only LoRA is counted")
    if not 0 < rank <= _MAX_RANK:
        raise UnsupportedError(f"{repo_id}: adapter_config.json says rank {said!r}, its weights {rank}")
    alpha = config.get("lora_alpha")
    by_dtype: dict[str, int] = {}
    for group in checkpoint.groups:
        by_dtype[group.dtype] = by_dtype.get(group.dtype, 0) + group.total_bytes
    return Adapter(
        repo_id,
        method.lower(),
        rank,
        float(alpha) if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) else None,
        tuple(sorted(_modules(group.pattern for group in checkpoint.groups))),
        sum(group.total_elements for group in checkpoint.groups),
        checkpoint.total_bytes,
        by_dtype,
        base,
    )


def _modules(patterns: Iterable[str]) -> set[str]:
    return {found[1] for pattern in patterns if (found := _MODULE.search(pattern))}


def rank_to_reserve(rank: int, given: int | None) -> int:
    """`--max-lora-rank`: as given, else the smallest allowed one that holds the adapter, not below vLLM's default.

    Raises:
        UsageError: a rank that vLLM does not take, or one below the adapter's.
    """
    if given is not None:
        if given not in RANKS:
            raise UsageError(f"--max-lora-rank {given} is not one of {', '.join(map(str, RANKS))}")
        if given < rank:
            raise UsageError(f"--max-lora-rank {given} is below the adapter's rank {rank}")
        return given
    allowed = next((size for size in RANKS if size >= max(rank, DEFAULT_RANK)), None)
    if allowed is None:
        raise UnsupportedError(f"vLLM has no LoRA rank of {rank} (at most {RANKS[-1]})")
    return allowed


def reserved_bytes(
    architecture: Architecture, serving: Serving, rank: int, max_loras: int, modules: frozenset[str] | None = None
) -> int:
    """Bytes of the stacked A and B on the most loaded rank; `modules` limits them to layers of these names.

    Raises:
        UnsupportedError: a vocabulary beyond vLLM's limit, or a layer that the ranks cannot divide.
    """
    sharding = Sharding(
        tp=serving.tp,
        expert_ranks=serving.tp * serving.dp,
        expert_parallel=serving.ep,
        num_experts=architecture.num_experts,
    )
    stage = -(-architecture.num_hidden_layers // serving.pp) / max(architecture.num_hidden_layers, 1)
    elements = 0.0
    for spec in architecture.tensors:
        if _is_linear(spec) and (modules is None or _named(spec, modules)):
            elements += spec.count * _elements(spec, sharding, rank) * stage
    if architecture.model_type in _EMBEDDING and modules is None:
        if architecture.vocab_size > _MAX_VOCABULARY:
            raise UnsupportedError(
                f"vLLM takes adapters up to a vocabulary of {_MAX_VOCABULARY:,}, this model has {architecture.vocab_size:,}"
            )
        # a tied head is the embedding's module, and of several stages the first has the one and the last the other
        tables = 1 if architecture.tie_word_embeddings or serving.pp > 1 else 2
        elements += tables * rank * (architecture.vocab_size + architecture.hidden_size)
    return round(elements) * max_loras * _DTYPE_BYTES


def _is_linear(spec: TensorSpec) -> bool:
    if spec.component not in _MATRIX_PARTS or spec.buffer or spec.tied_to is not None or "conv" in spec.pattern:
        return False
    return len(spec.shape) == 2 or (len(spec.shape) == 3 and isinstance(spec.split, ExpertSplit))


def _named(spec: TensorSpec, modules: frozenset[str]) -> bool:
    parts = [part for part in spec.pattern.split(".") if part != "{}"]
    return bool(modules.intersection(parts))


def _elements(spec: TensorSpec, sharding: Sharding, rank: int) -> float:
    """Elements of A and B of one matrix, or of a stack of experts' matrices, on a rank."""
    split = spec.split.inner if isinstance(spec.split, ExpertSplit) else spec.split
    outputs, inputs = spec.shape[-2:]
    matrices = spec.shape[0] if len(spec.shape) == 3 else 1
    part = float(share(spec, sharding))
    if isinstance(spec.split, ExpertSplit) and sharding.expert_parallel:
        return part * matrices * rank * (inputs + outputs)
    if isinstance(split, Column):
        return matrices * rank * (inputs + outputs * part)
    if isinstance(split, Row):
        return matrices * rank * (inputs * part + outputs)
    return matrices * rank * (inputs + outputs)
