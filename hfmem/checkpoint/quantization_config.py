"""What a repository says about its quantization, in the four files and the dozen dialects that say it.

`quantization_config` (or `compression_config`) of config.json, `quantization` of MLX, `hf_quant_config.json` of
modelopt, `quantize_config.json` of AutoGPTQ and `quant_config.json` of AutoAWQ become one `Quantization`. The tensors
stay the evidence for sizes; this supplies what shapes cannot tell (bits of a packed integer, group sizes) and what
the report names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hfmem.checkpoint.config_schemes import config_scheme
from hfmem.checkpoint.schemes import Scheme
from hfmem.records import dataclass, replace

#: methods whose tensor layouts are known here
KNOWN_METHODS: Final = frozenset(
    {
        "aqlm",
        "auto-round",
        "awq",
        "bitnet",
        "bitsandbytes",
        "compressed-tensors",
        "eetq",
        "exl2",
        "exl3",
        "fbgemm_fp8",
        "fp8",
        "fp_quant",
        "gptq",
        "higgs",
        "hqq",
        "mlx",
        "modelopt",
        "mxfp4",
        "quark",
        "quip",
        "torchao",
    }
)

_METHOD_NAMES: Final = {
    "compressed_tensors": "compressed-tensors",
    "sparseml": "compressed-tensors",
    "intel/auto-round": "auto-round",
    "auto_round": "auto-round",
    "modelopt_fp4": "modelopt",
    "modelopt_mixed": "modelopt",
    "fp8_block": "fp8",
    "fp4": "modelopt",
    "gptqmodel": "gptq",
    "gptq_v2": "gptq",
    "marlin": "gptq",
    "fp-quant": "fp_quant",
    "fbgemm-fp8": "fbgemm_fp8",
    "bnb": "bitsandbytes",
    "inc": "auto-round",
    "quip#": "quip",
}


#: AQLM names weights, not modules
_AQLM_PLAIN: Final = "linear_weights_not_to_quantize"
#: the class of modules that a target may name instead of modules
_EVERY_LINEAR: Final = "Linear"


@dataclass(frozen=True, slots=True)
class Target:
    """Modules with bits, group or format of their own. `match` is `re:…`, a shell pattern, a name, or a class name (`Linear`)."""

    match: str
    bits: int | None
    group_size: int | None
    algorithm: str | None = None

    def fits(self, module: str) -> bool:
        """Whether the target speaks of the module of this name."""
        return _fits(self.match, module)


@dataclass(frozen=True, slots=True)
class Quantization:
    """What the configuration files say. `group_size` None is one scale a channel or a tensor; `block` is rows × columns of a scale.

    `ignored` are the modules said to stay as they were, as written. `kv_cache` is the dtype the file asks for the KV
    cache, as written. `expert_dtype` is that of routed experts where they differ from the rest (DeepSeek V4: fp4), as written.
    `others_plain`: modules that none of `targets` names stay as they were. `scheme`: the layout, of methods that have words of
    their own for it.
    """

    method: str
    algorithm: str | None
    bits: int | None
    group_size: int | None
    block: tuple[int, int] | None
    symmetric: bool | None
    ignored: tuple[str, ...]
    kv_cache: str | None
    targets: tuple[Target, ...]
    file: str
    expert_dtype: str | None = None
    others_plain: bool = False
    scheme: Scheme | None = None

    @property
    def known(self) -> bool:
        """Whether the layout of the method's tensors is known here."""
        return self.method in KNOWN_METHODS

    @property
    def kv_format(self) -> str | None:
        """The cache format that engines take from `kv_cache` where the user names none; None: the model's dtype.

        vLLM 0.33: of ModelOpt's formats FP8 and NVFP4 (`get_kv_cache_quant_algo_string`), of compressed-tensors' 8-bit floats.
        """
        said = (self.kv_cache or "").lower()
        match self.method:
            case "modelopt":
                return {"fp8": "fp8", "float8": "fp8", "nvfp4": "nvfp4", "float4": "nvfp4"}.get(said)
            case "compressed-tensors":
                return "fp8" if said in ("float8", "fp8") else None
            case _:
                return said or None

    def ignores(self, module: str) -> bool:
        """Whether the file says that this module stays unquantized."""
        return any(_fits(pattern, module, prefix=True) for pattern in self.ignored)

    def target_of(self, module: str) -> Target | None:
        """What the file says of this module alone, a class of modules (`Linear`) last."""
        named = next((t for t in self.targets if t.fits(module)), None)
        return named or next((t for t in self.targets if t.match == _EVERY_LINEAR), None)

    def bits_of(self, module: str) -> int | None:
        """Bits of this module's weights, None where the file does not say."""
        return next((t.bits for t in self.targets if t.bits and t.fits(module)), self.bits)

    def group_size_of(self, module: str) -> int | None:
        """Weights that share a scale in this module, None where the file does not say or it is a whole row."""
        return next((t.group_size for t in self.targets if t.fits(module)), self.group_size)


def _fits(pattern: str, module: str, *, prefix: bool = False) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], module) is not None
        except re.error:
            return False
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(module, pattern)
    if module == pattern or module.endswith("." + pattern):
        return True
    return prefix and (module.startswith(pattern + ".") or f".{pattern}." in module)


def parse_quantization(files: Mapping[str, Mapping[str, Any]]) -> Quantization | None:
    """The facts of `files` (file name → its JSON object); None where none says that the model is quantized.

    The first of config.json, hf_quant_config.json, quantize_config.json, quant_config.json that names a method wins;
    a text model nested in config.json (`text_config`) counts as config.json.
    """
    files = {name.rpartition("/")[2]: value for name, value in files.items()}
    for file, config in _candidates(files):
        found = _parse(file, config)
        if found is not None:
            experts = config.get("expert_dtype", files.get("config.json", {}).get("expert_dtype"))
            return replace(found, expert_dtype=_text(experts))
    return None


def _candidates(files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    config = files.get("config.json", {})
    nested = [config, *(config.get(key) for key in ("text_config", "llm_config", "language_config", "thinker_config"))]
    for part in nested:
        if isinstance(part, Mapping):
            for key in ("quantization_config", "compression_config", "quantization"):
                if isinstance(part.get(key), Mapping):
                    yield "config.json", part[key]
    for name in ("hf_quant_config.json", "quantize_config.json", "quant_config.json"):
        if isinstance(files.get(name), Mapping):
            yield name, files[name]


def _parse(file: str, config: Mapping[str, Any]) -> Quantization | None:
    nested = config.get("quantization")
    if isinstance(nested, Mapping):  # hf_quant_config.json wraps what matters
        config = {**nested, "quant_method": config.get("quant_method", "modelopt")}
    method = _method(file, config)
    if method is None:
        return None
    weights, targets = _config_groups(config)
    bits = _first_int(config, "bits", "w_bit", "num_bits", "nbits", "weight_bits") or _int(weights.get("num_bits"))
    group = _first_int(config, "group_size", "q_group_size") or _int(weights.get("group_size"))
    algorithm = _text(config.get("quant_algo")) or _text(config.get("format")) or _text(config.get("fmt"))
    block = _pair(config.get("weight_block_size")) or _pair(weights.get("block_structure"))
    symmetric = _bool(config.get("sym", weights.get("symmetric")))
    if "zero_point" in config and symmetric is None:
        symmetric = not config["zero_point"]
    match method:
        case "bitsandbytes":
            four = bool(config.get("load_in_4bit") or config.get("_load_in_4bit"))
            bits = 4 if four else 8
            algorithm = (_text(config.get("bnb_4bit_quant_type")) or "fp4") if four else "int8"
            algorithm += "-double" if four and config.get("bnb_4bit_use_double_quant") is True else ""
            group = 64 if four else None  # bitsandbytes' default block; the configuration has no key for it
        case "mxfp4":
            bits, group, algorithm = 4, 32, "mxfp4"
        case "fp8" | "fbgemm_fp8" | "eetq":
            bits = bits or 8
        case "bitnet":
            bits = 2
        case "hqq":
            inner = config.get("quant_config", config)
            params = inner.get("weight_quant_params", inner) if isinstance(inner, Mapping) else {}
            bits, group = bits or _int(params.get("nbits")), group or _int(params.get("group_size"))
        case "aqlm":
            bits = bits or _aqlm_bits(config)
        case "torchao":
            algorithm = _torchao_type(config)
            bits = bits or _bits_in(algorithm)
        case "quark":
            targets, algorithm = targets or (), algorithm or _quark_type(config)
        case "auto-round":  # the layout of the tool that it packs for
            algorithm = algorithm or _text(config.get("packing_format")) or _text(config.get("backend"))
        case _:
            pass
    if bits is None and algorithm:
        bits = _bits_in(algorithm)
    if group is None and algorithm and "nvfp4" in algorithm.lower():
        group = 16
    kv = config.get("kv_cache_scheme") or config.get("kv_cache_quant_algo")
    if isinstance(kv, Mapping):
        dynamic = (
            "dynamic " if method == "modelopt" and kv.get("num_bits") == 8 and kv.get("dynamic") is not False else ""
        )
        kv = f"{dynamic}{kv.get('type', 'int')}{kv.get('num_bits', '')}"
    ignored = next(
        (
            tuple(str(item).removesuffix(".weight") for item in config[key])
            for key in (
                "modules_to_not_convert",
                "ignore",
                "exclude_modules",
                "llm_int8_skip_modules",
                "exclude",
                _AQLM_PLAIN,
            )
            if isinstance(config.get(key), (list, tuple))
        ),
        (),
    )
    ignored += tuple(f"re:{name[2:]}" for name in _mapping(config.get("dynamic")) if name.startswith("-:"))
    mixed = (algorithm or "").upper() == "MIXED_PRECISION"
    if mixed and method == "modelopt":  # each module by name, with its format; the groups say bits alone
        targets = _overrides(config) or targets
    if mixed and method == "fp8":  # some modules in a format of their own, the others as an FP8 file has them
        mixed, algorithm, ignored, targets = False, _text(config.get("fmt")), (), _overrides(config)
        bits, group = 8, None
    others_plain = mixed or (bool(targets) and all(target.match != _EVERY_LINEAR for target in targets))
    others_plain = others_plain and method != "fp8"
    return Quantization(
        method=method,
        algorithm=algorithm,
        bits=bits,
        group_size=group if group and group > 0 else None,
        block=block,
        symmetric=symmetric,
        ignored=ignored,
        kv_cache=_text(kv),
        targets=targets or _overrides(config),
        file=file,
        others_plain=others_plain,
        scheme=config_scheme(method, config) if method in ("aqlm", "bitnet", "torchao") else None,
    )


def _method(file: str, config: Mapping[str, Any]) -> str | None:
    name = _text(config.get("quant_method"))
    if name:
        return _METHOD_NAMES.get(name.lower(), name.lower())
    if "quant_algo" in config or isinstance(config.get("producer"), Mapping):
        return "modelopt"
    if "config_groups" in config or "sparsity_config" in config:
        return "compressed-tensors"
    if "load_in_4bit" in config or "load_in_8bit" in config:
        return "bitsandbytes" if config.get("load_in_4bit") or config.get("load_in_8bit") else None
    if "w_bit" in config or "q_group_size" in config:
        return "awq"
    if file == "quantize_config.json" and "bits" in config:
        return "gptq"
    if "bits" in config and "group_size" in config:
        return "mlx"
    return None


def _config_groups(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Target, ...]]:
    """The weights' scheme of the first group, and a target for each group beyond "every Linear"."""
    schemes: list[tuple[Mapping[str, Any], list[str], str | None]] = []
    for group in _mapping(config.get("config_groups")).values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            names = group.get("targets")
            stored = _text(group.get("format"))
            schemes.append((weights, [str(t) for t in names] if isinstance(names, list) else [], stored))
    targets = tuple(
        Target(name, _int(weights.get("num_bits")), _positive(weights.get("group_size")), stored)
        for weights, names, stored in schemes
        for name in names
        if len(schemes) > 1
    )
    return (schemes[0][0] if schemes else {}), targets


def _overrides(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """Per-module entries: MLX puts `{name: {bits, group_size}}` beside its defaults, GPTQModel regular expressions in `dynamic`."""
    out = [
        Target(name, _first_int(value, "bits"), _positive(value.get("group_size")))
        for name, value in config.items()
        if isinstance(value, Mapping) and isinstance(value.get("bits"), int)
    ]
    for key, prefix in (("dynamic", "re:"), ("extra_config", ""), ("quantized_layers", "")):
        for name, value in _mapping(config.get(key)).items():
            if isinstance(value, Mapping) and not name.startswith("-:"):
                algorithm = _text(value.get("quant_algo"))
                bits = _first_int(value, "bits") or _bits_in(algorithm)
                group = _positive(value.get("group_size"))
                out.append(Target(prefix + name.removeprefix("+:"), bits, group, algorithm))
    return tuple(out)


def _aqlm_bits(config: Mapping[str, Any]) -> int | None:
    """Bits of codes a weight, of all codebooks together, where they are whole."""
    values = [
        _positive(config.get(key)) for key in ("num_codebooks", "nbits_per_codebook", "in_group_size", "out_group_size")
    ]
    books, bits, wide, high = (value or 0 for value in values)
    each = wide * high
    return books * bits // each if each and books and bits and books * bits % each == 0 else bits or None


def _torchao_type(config: Mapping[str, Any]) -> str | None:
    kind = config.get("quant_type")
    while isinstance(kind, Mapping):
        kind = kind.get("default", kind.get("_type"))
    return _text(kind)


def _quark_type(config: Mapping[str, Any]) -> str | None:
    """Quark's global format of weights in the word of the layout that it stores: `fp8`, `mxfp4`; else its dtype."""
    weight = _mapping(_mapping(config.get("global_quant_config")).get("weight"))
    kind = (_text(weight.get("dtype")) or "").lower()
    if kind == "fp4" and weight.get("group_size") == 32 and weight.get("scale_format") == "e8m0":
        return "mxfp4"
    return "fp8" if kind.startswith("fp8") and weight.get("qscheme") == "per_tensor" else kind or None


def _bits_in(algorithm: str | None) -> int | None:
    """`NVFP4` → 4, `W4A16_AWQ` → 4, `FP8_PB_WO` → 8, `int8_weight_only` → 8."""
    match = re.search(r"(?:fp|int|w|nf|float)_?(\d)", (algorithm or "").lower())
    return int(match.group(1)) if match else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first_int(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((value for key in keys if (value := _int(config.get(key))) is not None), None)


def _int(value: Any) -> int | None:
    return value if type(value) is int else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _text(value: Any) -> str | None:
    return value if type(value) is str and value else None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value):
        return value[0], value[1]
    return None
