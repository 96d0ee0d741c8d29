"""From settings as `hfmem.estimate` takes them to a `Configuration`.

One may be left to a solver (`"max"`, `"min"`); it is resolved as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hfmem.api.configuration import DEFAULT_CONTEXT, Configuration, is_gguf
from hfmem.api.given import Settings
from hfmem.api.reading import Model, in_format, read_model
from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory import engines
from hfmem.memory.serving import LLAMA_CPP, LlamaCpp, Serving
from hfmem.model.architecture import Note
from hfmem.model.layers import FullAttention, SlidingAttention
from hfmem.records import replace
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.api.extras import Extras
    from hfmem.plan.devices import Device

#: whose rules hold when no engine is named: the first of these that serves the model
DEFAULT_ENGINES: Final = ("vllm", "transformers", "ideal")
_GGUF_ENGINES: Final = ("llama.cpp", "ideal")
#: of devices that vLLM's rules are not read for
_APPLE_ENGINES: Final = ("llama.cpp", "transformers", "ideal")
#: methods of checkpoints from which vLLM reads scales of the cache, declared or not; ModelOpt's mixed one where it declares them
_READS_SCALES: Final = frozenset({"fp8", "modelopt", "quark"})


def configure(model: str | Model, *, on_apple: bool = False, **settings: Any) -> Configuration:
    """The configuration that `settings` describe, as `hfmem.estimate` takes them, solver words resolved.

    `on_apple`: devices that are yet to be found will be Apple's.

    Raises:
        UsageError: a setting out of range, two solver words, or one without a device.
        SourceError: the model could not be read. UnsupportedError: no rule covers it or the engine refuses it.
    """
    given = Settings(settings)
    reading = {name: given.take(name) for name in ("revision", "assume", "fetch")}
    strict = given.take("strict", False)
    original = model if isinstance(model, Model) else read_model(model, strict=strict, **reading)
    quant, dtype = given.take("quant"), given.take("dtype")
    read = in_format(original, quant, dtype)
    unknown = given.unknown()
    apple = on_apple or _is_apple(settings.get("device"))
    serving, notes = _serving(read, given, local=unknown in ("gpu_layers", "cpu_moe_layers"), apple=apple)
    extras = _extras(read, given, notes, reading["fetch"])
    if extras is not None and extras.drafter is not None:
        serving = replace(serving, speculative_tokens=extras.drafter.tokens(serving.engine))
    found = Configuration(
        read, original, serving, given.take("overhead"), extras, quant=quant, dtype=dtype, notes=(*read.notes, *notes)
    )
    found = _placed(found, given)
    given.check_all_taken()
    _check_cache_scales(read, found.serving)
    if unknown is None:
        return found
    from hfmem.api.solving import solved

    return solved(found, unknown)


def _check_cache_scales(read: Model, serving: Serving) -> None:
    """vLLM's rule of e5m2 caches (0.33.0 `attention.py`, `_init_kv_cache_quant`).

    Raises:
        UnsupportedError: the checkpoint's attention has scales, which are e4m3's.
    """
    said = read.quantization
    if said is None or serving.engine != "vllm" or serving.kv_dtype != "fp8_e5m2":
        return
    plain = any(isinstance(cache, FullAttention | SlidingAttention) for cache in read.architecture.caches())
    declared = said.kv_format is not None and said.method in (*_READS_SCALES, "compressed-tensors")
    reads = said.method in _READS_SCALES and "MIXED" not in (said.algorithm or "").upper()
    if plain and (declared or reads):
        raise UnsupportedError(
            f"vLLM has no fp8_e5m2 cache for {said.method} checkpoints, whose scales are of e4m3 (--kv-dtype fp8)"
        )


def _is_apple(device: str | Device | None) -> bool:
    """Whether the device that was named is Apple's.

    Raises:
        UsageError: it is not known.
    """
    if isinstance(device, str):
        from hfmem.plan.devices import find_device

        device = find_device(device).device
    return device is not None and device.vendor == "apple"


def _serving(read: Model, given: Settings, *, local: bool, apple: bool) -> tuple[Serving, list[Note]]:
    """What is served how, before devices: the engine resolved (`local`: llama.cpp's settings are asked for; `apple`: on such a
    device), the context the model's own where none is given."""
    notes: list[Note] = []
    context = given.take("context")
    if context is None:
        context = read.architecture.max_position_embeddings or DEFAULT_CONTEXT
        if not read.architecture.max_position_embeddings:
            text = f"the config names no maximum context: {DEFAULT_CONTEXT:,} tokens assumed"
            notes.append(Note("default_context", text))
    engine = given.take("engine")
    llama_cpp = LlamaCpp(**{name: given.take(name, getattr(LLAMA_CPP, name)) for name in LLAMA_CPP.__match_args__})
    if engine is None and (local or llama_cpp != LLAMA_CPP):
        engine = "llama.cpp"
    cached = given.take("cache_implementation", "dynamic")
    if engine is None and cached != "dynamic":
        engine = "transformers"
    serving = Serving(
        context=context,
        num_seqs=given.take("num_seqs", 1),
        kv_dtype=given.take("kv_dtype", "auto"),
        engine=engine or (_GGUF_ENGINES if is_gguf(read) else DEFAULT_ENGINES)[0],
        tp=given.take("tp", 1),
        pp=given.take("pp", 1),
        dp=given.take("dp", 1),
        ep=given.take("ep", False),
        max_num_batched_tokens=given.take("max_num_batched_tokens"),
        max_num_seqs=given.take("max_num_seqs"),
        eager=given.take("eager", False),
        language_model_only=given.take("language_model_only", False),
        dcp=given.take("dcp", 1),
        state_dtype=given.take("state_dtype"),
        swa_full_tokens_ratio=given.take("swa_full_tokens_ratio"),
        mamba_full_memory_ratio=given.take("mamba_full_memory_ratio"),
        max_total_tokens=given.take("max_total_tokens"),
        cache_implementation=cached,
        one_kind_of_page=given.take("one_kind_of_page", False),
        synchronous=given.take("synchronous", False),
        cpu_offload_bytes=int(given.take("cpu_offload_gb", 0) * GIB),  # rounded down, as vLLM does
        page_size=given.take("page_size"),
        enable_prefix_caching=given.take("enable_prefix_caching"),
        kv_memory_bytes=given.take("kv_memory_bytes"),
        num_gpu_blocks=given.take("num_gpu_blocks"),
        source_tokens=given.take("source_tokens"),
        declared_kv_dtype=read.declared_kv_dtype,
        llama_cpp=llama_cpp,
    )
    if engine is None:
        serving, note = default_engine(read, serving, apple=apple)
        notes += [note] if note else []
    return serving, notes


def _extras(read: Model, given: Settings, notes: list[Note], fetch: Any) -> Extras | None:
    beside = {name: given.take(name) for name in ("lora", "max_loras", "max_lora_rank", "draft", "draft_tokens")}
    if read.adapter is None and all(value is None for value in beside.values()):
        return None
    from hfmem.api.extras import read_extras

    extras, more = read_extras(read, **beside, fetch=fetch)
    notes += more
    return extras


def _placed(found: Configuration, given: Settings) -> Configuration:
    """On the devices named, with the engine's own way to use them all where no sizes are given."""
    groups = given.take("attn_dp", 1)  # among ranks whose number the devices may decide
    device, count, share = given.take("device"), given.take("num_devices"), given.take("utilization")
    if device is None:
        if count is not None or share is not None:
            raise UsageError(f"{'utilization' if count is None else 'a number of GPUs'} says nothing without a device")
        return found.serve(attn_dp=groups)
    from hfmem.plan.target import place_on

    serving = found.serving
    target, tp, pp = place_on(device, count, share, serving.engine, serving.tp, serving.pp, serving.dp)
    if serving.engine == "sglang":
        from hfmem.plan.sglang_share import served_model

        target = replace(target, model=served_model(found.read.architecture))
    placed = found.place(target, tp, pp).serve(attn_dp=groups)
    placed = replace(placed, tp_given=serving.tp > 1, pp_given=serving.pp > 1)
    return _taken(placed) if tp * pp > 1 else placed


def _taken(found: Configuration) -> Configuration:
    """`found`; where the engine refuses a layout that nobody asked for, on the first other one over as many ranks that it takes."""
    refusal = _refusal(found)
    if refusal is None or found.tp_given or found.pp_given or found.target is None:
        return found
    from hfmem.api.solving import NODE, layouts

    device, serving = found.target.device, found.serving
    for tp, pp in layouts(found, serving.tp * serving.pp, device.gpus_per_node or NODE):
        other = found.place(found.target, tp, pp)
        if _refusal(other) is None:
            text = (
                f"--tp {tp} --pp {pp}, because {serving.engine} refuses --tp {serving.tp} --pp {serving.pp}: {refusal}"
            )
            return replace(other, notes=(*other.notes, Note("layout_fallback", text)))
    return found


def _refusal(found: Configuration) -> str | None:
    """Why the engine does not take the layout."""
    try:
        engines.engine(found.serving.engine).cache(found.read.architecture, found.serving)
        found.scale().weights(found.serving)
    except UnsupportedError as error:
        return error.message
    return None


def default_engine(read: Model, serving: Serving, *, apple: bool = False) -> tuple[Serving, Note | None]:
    """`serving` under the first of `DEFAULT_ENGINES` that serves the model (for GGUF files and on `apple` devices llama.cpp comes
    first), and why it is not vLLM. An engine that serves it, only not in this layout or format, is kept, and refuses."""
    refusal = ""
    names = _GGUF_ENGINES if is_gguf(read) else _APPLE_ENGINES if apple else DEFAULT_ENGINES
    for name in names:
        tried = replace(serving, engine=name)
        plain = Serving(serving.context, engine=name, source_tokens=serving.source_tokens)
        try:
            engines.engine(name).cache(read.architecture, plain)
        except UnsupportedError as error:
            refusal = refusal or error.message
            continue
        if name == names[0]:
            why = "by the rules of llama.cpp, because vLLM's are not read for devices of apple"
            return tried, Note("engine_fallback", why) if names is _APPLE_ENGINES else None
        return tried, Note("engine_fallback", f"by the rules of {name}, because {names[0]} refuses: {refusal}")
    return serving, None
