"""From a configuration that fits to the command or manifest that serves it."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hfmem.api.configuration import Configuration, is_gguf
from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory import engines
from hfmem.memory.lora import DEFAULT_RANK
from hfmem.model.layers import CompressedAttention
from hfmem.plan.fit_notes import TOO_FEW_BLOCKS
from hfmem.plan.launch import Launch, emit
from hfmem.report import Report

if TYPE_CHECKING:
    from hfmem.api.extras import Extras
    from hfmem.api.reading import Model
    from hfmem.memory.serving import Serving


def launch_text(
    kind: str, found: Configuration, report: Report, place: str | None = None, revision: str | None = None
) -> str:
    """The command or manifest of `kind` (`hfmem.plan.launch.KINDS`) that serves what `report` speaks of.

    Args:
        place: how the model was named, for one that is no Hub repository. revision: as it was asked for.

    Raises:
        UsageError: no such kind, or one that does not run the engine or the layout; an engine that does not run on Apple's devices.
        UnsupportedError: the report says that it does not fit.
    """
    fit = report.fit
    if fit is not None and fit.verdict == "does-not-fit":
        raise UnsupportedError(f"{report.model.id} does not fit {fit.num_devices} × {fit.device}")
    serving, local = found.serving, report.model.source == "local"
    device = None if found.target is None else found.target.device
    vendors = engines.engine(serving.engine).VENDORS
    remark = ""
    if device is not None and device.vendor not in ("any", *vendors):
        known = (
            f"{serving.engine}'s rules are read for devices of {' and '.join(sorted(vendors))}, not of {device.vendor}"
        )
        if device.vendor == "apple":
            raise UsageError(f"{known}: --emit llama.cpp")
        remark = f"# {known}\n"
    positions = found.read.architecture.max_position_embeddings
    return remark + emit(
        kind,
        Launch(
            model=_path(found.read, place) if local and place else report.model.id,
            revision=None if local else revision or _pinned(report, place),
            engine=serving.engine,
            context=serving.context,
            num_seqs=serving.num_seqs,
            max_num_seqs=serving.max_num_seqs or _blocks(report),
            eager=serving.eager,
            language_model_only=serving.language_model_only,
            kv_dtype=serving.kv_dtype,
            tp=serving.tp,
            pp=serving.pp,
            dp=serving.dp,
            ep=serving.ep,
            utilization=None if fit is None else fit.utilization,
            max_num_batched_tokens=serving.max_num_batched_tokens,
            page_size=serving.page_size,
            enable_prefix_caching=serving.enable_prefix_caching,
            quant=found.quant,
            dtype=found.dtype,
            attn_dp=serving.attn_dp,
            dcp=serving.dcp,
            state_dtype=serving.state_dtype,
            cache_implementation=serving.cache_implementation,
            swa_full_tokens_ratio=serving.swa_full_tokens_ratio,
            mamba_full_memory_ratio=serving.mamba_full_memory_ratio,
            one_kind_of_page=serving.one_kind_of_page,
            synchronous=serving.synchronous,
            cpu_offload_bytes=serving.cpu_offload_bytes,
            kv_memory_bytes=serving.kv_memory_bytes,
            num_gpu_blocks=serving.num_gpu_blocks,
            pool_tokens=report.engine_pool.capacity_tokens
            if report.engine_pool and serving.kv_memory_bytes
            else serving.max_total_tokens,
            llama_cpp=serving.llama_cpp,
            is_gguf=is_gguf(found.read),
            file=found.read.facts.config_file if is_gguf(found.read) and not local and found.quant is None else None,
            beyond_positions=bool(positions and serving.context > positions),
            vendor=device.vendor if device is not None else "nvidia",
            gpus_per_node=device.gpus_per_node if device is not None else None,
            **_beside(found.extras, serving),
        ),
    )


def as_launched(found: Configuration) -> Configuration:
    """`found` with the limit that its command sets where several sequences were asked for: the engine then makes room for no
    more."""
    serving = found.serving
    if serving.max_num_seqs is not None or serving.num_seqs == 1 or not engines.is_server(serving.engine):
        return found
    return found.serve(max_num_seqs=serving.num_seqs_per_replica if serving.engine == "vllm" else serving.num_seqs)


def _blocks(report: Report) -> int | None:
    """The most sequences that vLLM starts with where its pool has fewer blocks than its default asks for."""
    few = any(warning.code == TOO_FEW_BLOCKS for warning in report.warnings)
    return report.engine_pool.num_pages if few and report.engine_pool is not None else None


def _path(read: Model, place: str) -> str:
    """A folder of GGUF files is none to llama.cpp: the file in it that was read."""
    folder = is_gguf(read) and not place.lower().endswith(".gguf")
    return str(PurePath(place, read.facts.config_file)) if folder else place


def _beside(extras: Extras | None, serving: Serving) -> dict[str, Any]:
    """Adapter and draft model, by the names that an engine finds them under."""
    if extras is None:
        return {}
    found: dict[str, Any] = {}
    engine, told = serving.engine, extras.lora_info(serving)
    if told is not None:
        rank = told.max_lora_rank if engine == "vllm" else extras.max_lora_rank  # SGLang takes the adapter's itself
        if rank == DEFAULT_RANK and extras.max_lora_rank is None:
            rank = None
        found |= {"lora": told.id, "max_loras": extras.max_loras, "max_lora_rank": rank}
    drafter = extras.drafter
    if drafter is not None:
        arch = drafter.architecture
        found["draft"] = "mtp" if extras.draft is None else extras.draft.facts.repo_id
        found["draft_method"], found["draft_class"] = drafter.method, next(iter(arch.architectures), "")
        found["draft_words_differ"] = arch.vocab_size != extras.architecture.vocab_size
        found["draft_tokens"] = drafter.tokens(engine) if engine == "vllm" else extras.draft_tokens
        compressed = any(isinstance(kind, CompressedAttention) for kind in drafter.architecture.kinds())
        if (
            engine == "sglang" and drafter.own and compressed
        ):  # DeepSeek V4's are to be told, the last token beside them
            found["draft_tokens"] = drafter.tokens(engine) - 1
    return found


def _pinned(report: Report, place: str | None) -> str | None:
    """The commit, where a revision was named: what was estimated is what is served."""
    return report.model.revision if place is not None and "@" in place else None
