"""How a model is to be served, from the command line: the options that `estimate`, `fit` and `plan` share, parsed once, here.

`takes` puts the options of a group into a command's signature and hands the command the api's words for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hfmem.cli import engine_options as e
from hfmem.cli import options as o
from hfmem.cli.params import Parameter, parameters
from hfmem.errors import UsageError

#: what is served how: parameter → its option and default
SERVING: Final[dict[str, tuple[Any, Any]]] = {
    "ctx": (o.Ctx, None),
    "batch": (o.Load, None),
    "max_num_seqs": (o.MaxNumSeqs, None),
    "kv_dtype": (o.KvDtype, "auto"),
    "engine": (o.Engine, None),
    "tp": (o.Tp, "1"),
    "pp": (o.Pp, "1"),
    "dp": (o.Dp, "1"),
    "ep": (o.Ep, False),
    "attn_dp": (o.AttnDp, "1"),
    "dcp": (o.Dcp, "1"),
    "max_num_batched_tokens": (e.BatchedTokens, None),
    "page_size": (e.PageSize, None),
    "prefix_caching": (e.PrefixCaching, False),
    "no_prefix_caching": (e.NoPrefixCaching, False),
    "state_dtype": (e.StateDtype, None),
    "swa_ratio": (e.SwaRatio, None),
    "mamba_ratio": (e.MambaRatio, None),
    "max_total_tokens": (e.TotalTokens, None),
    "cache_implementation": (e.CacheImplementation, None),
    "one_kind_of_page": (e.OneKind, False),
    "synchronous": (e.Synchronous, False),
    "cpu_offload_gb": (e.CpuOffload, None),
    "eager": (o.Eager, False),
    "language_model_only": (o.LanguageModelOnly, False),
    "source_tokens": (e.SourceTokens, None),
    "overhead": (e.Overhead, None),
    "quant": (o.Quant, None),
    "dtype": (o.Dtype, None),
    "lora": (o.Lora, None),
    "max_loras": (o.MaxLoras, None),
    "max_lora_rank": (o.MaxLoraRank, None),
    "draft": (o.Draft, None),
    "draft_tokens": (o.DraftTokens, None),
    "ngl": (e.Ngl, None),
    "n_cpu_moe": (e.NCpuMoe, None),
    "cache_type_v": (e.CacheTypeV, None),
    "swa_full": (e.SwaFull, False),
    "kv_unified": (e.KvUnified, False),
    "flash_attn": (e.FlashAttn, None),
    "ubatch": (e.Ubatch, None),
    "no_kv_offload": (e.NoKvOffload, False),
}
#: on what
DEVICES: Final[dict[str, tuple[Any, Any]]] = {
    "gpu": (o.Gpu, None),
    "num_gpus": (o.NumGpus, None),
    "utilization": (o.Utilization, None),
    "kv_memory": (e.KvMemory, None),
    "num_gpu_blocks": (e.GpuBlocks, None),
}
#: where the model is read from
READING: Final[dict[str, tuple[Any, Any]]] = {
    "revision": (o.Revision, None),
    "assume": (o.Assume, None),
    "strict": (o.Strict, False),
    "no_headers": (o.NoHeaders, False),
    "no_cache": (o.NoCache, False),
    "refresh": (o.Refresh, False),
    "offline": (o.Offline, False),
    "verbose": (o.Verbose, False),
}
#: the part of it that a fetch is told
FETCHING: Final = ("no_cache", "refresh", "offline", "no_headers")


def takes(*groups: dict[str, tuple[Any, Any]], **own: tuple[Any, Any]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that adds the options of `groups` to a command, after its arguments and before its own options.

    The command receives the groups' settings as `settings`, in the api's words, and those of `READING` as `reading`. `own` replaces
    an option of a group.
    """
    options = {name: option for group in groups for name, option in group.items()} | own
    flags = {name: kind.__metadata__[0].names[0] for name, (kind, _) in options.items()}

    def decorate(command: Callable[..., Any]) -> Any:
        def called(**given: Any) -> Any:
            asked = {name: given.pop(name) for name in options}
            reading = {name: asked.pop(name) for name in READING if name in asked}
            return command(**given, settings=settings_of(asked, flags), reading=reading)

        mine = parameters(command)
        added = [Parameter(name, kind, default) for name, (kind, default) in options.items()]
        called.__name__, called.__doc__, called.__module__ = command.__name__, command.__doc__, command.__module__
        called.parameters = (  # type: ignore[attr-defined]
            *(parameter for parameter in mine if parameter.required),
            *added,
            *(parameter for parameter in mine if not parameter.required),
        )
        return called

    return decorate


def settings_of(asked: dict[str, Any], flags: dict[str, str]) -> dict[str, Any]:
    """The api's settings for what was typed; settings that were left alone are None or left out. Messages name the `flags`.

    Raises:
        UsageError: a word that is no number, or devices' settings without a device.
    """
    from hfmem.units import parse_gib, parse_memory, parse_percent, parse_ratio, parse_share

    gpu = asked.get("gpu")
    for name, flag in (("num_gpus", "--num-gpus"), ("utilization", "--utilization")):
        if gpu is None and asked.get(name) is not None:
            raise UsageError(f"{flag} needs --gpu")
    _check_words(asked)
    limit = _count(asked, "max_num_seqs", "--max-num-seqs")
    found: dict[str, Any] = {
        "context": _count(asked, "ctx", "--ctx", "max"),
        "num_seqs": _count(asked, "batch", flags["batch"], "max") or limit or 1,
        "max_num_seqs": limit,
        "num_devices": _count(asked, "num_gpus", "--num-gpus", "min"),
        "gpu_layers": _layers(asked.get("ngl")),
        "cpu_moe_layers": _count(asked, "n_cpu_moe", "--n-cpu-moe", "min"),
        "value_dtype": asked.get("cache_type_v"),
        "unified": asked.get("kv_unified"),
        "flash_attention": asked.get("flash_attn"),
        "kv_offload": not asked.get("no_kv_offload"),
        "device": gpu,
    }
    for name, flag in (
        ("tp", "--tp"),
        ("pp", "--pp"),
        ("dp", "--dp"),
        ("attn_dp", "--attn-dp"),
        ("dcp", "--dcp"),
        ("max_num_batched_tokens", "--max-num-batched-tokens"),
        ("page_size", "--page-size"),
        ("num_gpu_blocks", "--num-gpu-blocks-override"),
        ("source_tokens", "--source-tokens"),
        ("max_loras", "--max-loras"),
        ("max_lora_rank", "--max-lora-rank"),
        ("draft_tokens", "--draft-tokens"),
        ("max_total_tokens", "--max-total-tokens"),
        ("ubatch", "--ubatch-size"),
    ):
        found[name] = _count(asked, name, flag)
    if asked.get("kv_memory") is not None:
        found["kv_memory_bytes"] = parse_memory(asked["kv_memory"], "--kv-memory")
    if asked.get("cpu_offload_gb") is not None:
        found["cpu_offload_gb"] = parse_gib(asked["cpu_offload_gb"], "--cpu-offload-gb")
    if asked.get("swa_ratio") is not None:
        found["swa_full_tokens_ratio"] = float(parse_share(asked["swa_ratio"], "--swa-full-tokens-ratio"))
    if asked.get("mamba_ratio") is not None:
        found["mamba_full_memory_ratio"] = parse_ratio(asked["mamba_ratio"], "--mamba-full-memory-ratio")
    if asked.get("prefix_caching") and asked.get("no_prefix_caching"):
        raise UsageError("--enable-prefix-caching and --no-prefix-caching exclude each other")
    if asked.get("prefix_caching") or asked.get("no_prefix_caching"):
        found["enable_prefix_caching"] = bool(asked.get("prefix_caching"))
    if asked.get("overhead") is not None:
        found["overhead"] = parse_percent(asked["overhead"], "--overhead")
    if asked.get("utilization") is not None:
        share = asked["utilization"]
        found["utilization"] = "min" if share.lower() == "min" else parse_share(share, "--utilization")
    same = ("kv_dtype", "engine", "ep", "quant", "dtype", "lora", "draft", "swa_full", "eager", "language_model_only")
    told = ("state_dtype", "cache_implementation", "one_kind_of_page", "synchronous")
    return found | {name: asked.get(name) for name in (*same, *told)}


def engine_of(emit: str | None) -> str | None:
    """The engine that `--emit` speaks of, for where `--engine` names none."""
    from hfmem.memory.serving import ENGINES

    return emit if emit in ENGINES else None


#: what a solver finds: parameter → flag and word
_SOLVED: Final[dict[str, tuple[str, str]]] = {
    "ctx": ("--ctx", "max"),
    "batch": ("--batch", "max"),
    "num_gpus": ("--num-gpus", "min"),
    "utilization": ("--utilization", "min"),
    "ngl": ("--ngl", "max"),
    "n_cpu_moe": ("--n-cpu-moe", "min"),
}


def _check_words(asked: dict[str, Any]) -> None:
    """Solver words one at a time, and with a device to solve for.

    Raises:
        UsageError: otherwise.
    """
    words = [f"{flag} {word}" for name, (flag, word) in _SOLVED.items() if str(asked.get(name)).strip().lower() == word]
    if len(words) > 1:
        raise UsageError(f"{' and '.join(words)}: only one of them can be solved for at once")
    if words and asked.get("gpu") is None:
        raise UsageError(f"{words[0]} needs a device to fit: hfmem fit MODEL --gpu NAME")


def _count(asked: dict[str, Any], name: str, flag: str, word: str | None = None) -> Any:
    """A count, or the solver's word where there is one."""
    from hfmem.units import parse_count

    text = asked.get(name)
    if text is None or (word is not None and text.strip().lower() == word):
        return None if text is None else word
    return parse_count(text, flag)


def _layers(text: str | None) -> Any:
    """`-ngl`: a number, `all`, or `max`: as many as fit."""
    from hfmem.units import parse_count

    if text is None or text.lower() == "all":
        return None
    return "max" if text.lower() == "max" else 0 if text == "0" else parse_count(text, "--ngl")
