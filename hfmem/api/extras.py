"""What is served beside a model and takes memory of its own: LoRA adapters and a draft model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hfmem.errors import UsageError
from hfmem.memory import engines
from hfmem.memory.drafts import Drafter
from hfmem.memory.lora import Adapter, rank_to_reserve, read_adapter, reserved_bytes
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.model.architecture import Architecture, Note
from hfmem.model.inventory import Component
from hfmem.records import dataclass
from hfmem.remembered import remembered
from hfmem.report import DraftInfo, LoraInfo, RuntimeItem

if TYPE_CHECKING:
    from hfmem.api.reading import Model
    from hfmem.hub import FetchOptions


#: `--draft mtp`: the model's own prediction layers draft
OWN_DRAFT: Final = "mtp"
MTP_PART: Final = Component.MTP.value


@dataclass(frozen=True, slots=True)
class Extras:
    """An adapter served up to `max_loras` times at once, and what drafts: a model, or the model's own prediction layers, with the
    number of tokens proposed at once where it was given. Each may be None."""

    architecture: Architecture
    adapter: Adapter | None = None
    max_loras: int = 1
    max_lora_rank: int | None = None
    draft: Model | None = None
    own: Model | None = None  # the model itself, where its own prediction layers (MTP) draft
    draft_tokens: int | None = None

    @property
    def drafter(self) -> Drafter | None:
        """What drafts, as memory's rules know it."""
        model = self.own or self.draft
        return None if model is None else _drafter(model, self.own is not None, self.draft_tokens)

    def items(self, serving: Serving) -> dict[str, RuntimeItem]:
        """Bytes on the most loaded rank, under the keys of the report's `runtime`.

        Raises:
            UnsupportedError: the engine refuses the draft model, the adapter's rank or the layout.
        """
        found: dict[str, RuntimeItem] = {}
        if self.adapter is not None:
            size, words = self._lora(self.adapter, serving)
            found["lora_bytes"] = RuntimeItem(size, size, size, "derived", words)
        return found

    def _lora(self, adapter: Adapter, serving: Serving) -> tuple[int, str]:
        count = f"{self.max_loras} adapter{'' if self.max_loras == 1 else 's'}"
        if not engines.is_server(serving.engine):
            return adapter.bytes * self.max_loras, f"{count} of rank {adapter.rank}, as stored"
        modules = frozenset(adapter.target_modules) if serving.engine == "sglang" else None
        rank = self._rank(adapter, serving)
        size = reserved_bytes(self.architecture, serving, rank, self.max_loras, modules)
        place = "every linear layer" if modules is None else "its target modules"
        return size, f"room for {count} of rank {rank} at {place}"

    def _rank(self, adapter: Adapter, serving: Serving) -> int:
        if serving.engine == "vllm":
            return rank_to_reserve(adapter.rank, self.max_lora_rank)
        return self.max_lora_rank or adapter.rank

    def lora_info(self, serving: Serving) -> LoraInfo | None:
        """The adapter's section of the report."""
        adapter = self.adapter
        if adapter is None:
            return None
        return LoraInfo(
            adapter.id,
            adapter.method,
            adapter.rank,
            adapter.alpha,
            adapter.target_modules,
            adapter.parameters,
            adapter.bytes,
            adapter.base_model,
            self.max_loras,
            self._rank(adapter, serving) if engines.is_server(serving.engine) else None,
            self._lora(adapter, serving)[0],
        )

    def draft_info(
        self, weights: tuple[RankWeights, RankWeights], caches: tuple[CacheBytes, CacheBytes]
    ) -> DraftInfo | None:
        """The draft's section of the report: what weights and cache take with it and without."""
        model = self.own or self.draft
        if model is None:
            return None
        own = self.own is not None
        found = model.parameters
        return DraftInfo(
            id=OWN_DRAFT if own else model.facts.repo_id,
            model_type=model.architecture.model_type,
            parameters=found.by_component[MTP_PART] if own else found.total,
            weights_bytes=found.weights_by_component[MTP_PART] if own else found.weights_bytes,
            weights_bytes_per_rank=weights[0].stage_bytes[-1] - weights[1].stage_bytes[-1],
            kv_cache_bytes_per_rank=_on_last_stage(caches[0]) - _on_last_stage(caches[1]),
            kv_cache_bytes=caches[0].bytes - caches[1].bytes,
        )


def _on_last_stage(cache: CacheBytes) -> int:
    return cache.stage_bytes[-1] if cache.stage_bytes else cache.bytes_per_rank


@remembered
def _drafter(model: Model, own: bool, given: int | None) -> Drafter:
    return Drafter(model.architecture, tuple(model.parameters.groups), model.declared_kv_dtype, own, given)


def read_extras(
    read: Model,
    *,
    lora: str | None = None,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    draft: str | Model | None = None,
    draft_tokens: int | None = None,
    fetch: FetchOptions | None = None,
) -> tuple[Extras | None, list[Note]]:
    """The adapter and the draft model to serve beside `read`, and what is worth saying of them; None for neither.

    Raises:
        UsageError: settings of adapters without an adapter. SourceError, UnsupportedError: one of them cannot be read.
    """
    notes: list[Note] = []
    adapter = read.adapter
    if lora is not None:
        from hfmem.hub.adapter import load_adapter

        facts = load_adapter(lora, options=fetch)
        adapter = read_adapter(facts.repo_id, facts.config, facts.checkpoint, facts.base)
        base = adapter.base_model
        if base and base.rpartition("/")[2].lower() != read.facts.repo_id.rpartition("/")[2].lower():
            notes.append(Note("lora_base_differs", f"{adapter.id} was trained on {base}, not on {read.facts.repo_id}"))
    if adapter is None and (max_loras is not None or max_lora_rank is not None):
        raise UsageError("--max-loras and --max-lora-rank need an adapter: --lora ADAPTER")
    if max_loras is not None and max_loras < 1:
        raise UsageError(f"--max-loras must be at least 1, not {max_loras}")
    if draft_tokens is not None and (draft is None or draft_tokens < 1):
        raise UsageError("--draft-tokens needs a draft (--draft) and a number of at least 1")
    small: Model | None = None
    own = read if draft == OWN_DRAFT else None
    if own is not None and not own.parameters.weights_by_component.get(MTP_PART):
        raise UsageError(f"--draft mtp: {read.facts.repo_id} stores no prediction layers (MTP)")
    if draft is not None and own is None:
        from hfmem.api.reading import Model, read_model

        small = draft if isinstance(draft, Model) else read_model(draft, fetch=fetch)
        if small.architecture.vocab_size != read.architecture.vocab_size:
            notes.append(
                Note(
                    "draft_vocabulary_differs",
                    f"{small.facts.repo_id} has a vocabulary of {small.architecture.vocab_size:,}, "
                    f"the model {read.architecture.vocab_size:,}: engines want them equal",
                )
            )
    if adapter is None and small is None and own is None:
        return None, notes
    return Extras(read.architecture, adapter, max_loras or 1, max_lora_rank, small, own, draft_tokens), notes
