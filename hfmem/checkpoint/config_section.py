"""The values of a quantization section, each under the names that its dialects have for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hfmem.checkpoint.config_grouped import is_quanto_map
from hfmem.checkpoint.config_layouts import has_float_codes, quark_word
from hfmem.checkpoint.config_targets import bits_in, integer, mapping, positive, text
from hfmem.records import dataclass

#: where quanto's own models name their modules' formats
QUANTO_MAP: Final = "quanto_qmap.json"

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

#: where sections name the modules that stay as they were, the first that says something; AQLM names weights
_EXCEPTIONS: Final = (
    *("ignored_layers", "modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules", "exclude"),
    *("skip_modules", "linear_weights_not_to_quantize"),
)


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of a weight and weights that share a scale (None: a channel or a tensor), and the format by the section's own word.

    `mixed`: modules have formats of their own, of which the section names each.
    """

    bits: int | None
    group_size: int | None
    algorithm: str | None
    mixed: bool = False


def method_of(file: str, config: Mapping[str, Any]) -> str | None:
    """The method that a section names or whose keys it has; None: it says nothing of quantized weights."""
    name = text(config.get("quant_method"))
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
    if file == QUANTO_MAP and is_quanto_map(config):
        return "quanto"
    return None


def precision(method: str, config: Mapping[str, Any], weights: Mapping[str, Any]) -> Precision:
    """How weights are stored by a section's word, in the method's own keys where it has them.

    Args:
        weights: what the first of `config_groups` says of them, an empty mapping where there are none.
    """
    bits = _first_int(config, "bits", "w_bit", "num_bits", "nbits", "weight_bits") or integer(weights.get("num_bits"))
    group = _first_int(config, "group_size", "q_group_size") or integer(weights.get("group_size"))
    algorithm = text(config.get("quant_algo")) or text(config.get("format")) or text(config.get("fmt"))
    mixed = (algorithm or "").upper() == "MIXED_PRECISION"
    match method:
        case "bitsandbytes":
            return _bitsandbytes(config)
        case "mxfp4":
            return Precision(4, 32, "mxfp4")
        case "fp8" if mixed:  # what has no format of its own is stored as an FP8 file has it
            return Precision(8, None, text(config.get("fmt")), mixed=True)
        case "fp8" | "fbgemm_fp8" | "eetq":
            bits = bits or 8
        case "bitnet":
            bits = 2
        case "hqq":
            inner = mapping(config.get("quant_config", config))
            params = mapping(inner.get("weight_quant_params", inner))
            bits, group = bits or integer(params.get("nbits")), group or integer(params.get("group_size"))
        case "aqlm":
            bits = bits or _aqlm_bits(config)
        case "torchao":
            algorithm = _torchao_type(config)
            bits = bits or bits_in(algorithm)
        case "quanto":
            algorithm = algorithm or text(config.get("weights"))
        case "quark":
            algorithm = algorithm or quark_word(config)
        case "auto-round":  # the layout of the tool that it packs for
            algorithm = algorithm or text(config.get("packing_format")) or text(config.get("backend"))
    if bits is None:
        bits = bits_in(algorithm)
    if method == "auto-round" and has_float_codes(config):
        bits = None
    if group is None and algorithm and "nvfp4" in algorithm.lower():
        group = 16
    return Precision(bits, positive(group), algorithm, mixed=mixed)


def _bitsandbytes(config: Mapping[str, Any]) -> Precision:
    if not (config.get("load_in_4bit") or config.get("_load_in_4bit")):
        return Precision(8, None, "int8")
    double = "-double" if config.get("bnb_4bit_use_double_quant") is True else ""
    # bitsandbytes' default block; the configuration has no key for it
    return Precision(4, 64, (text(config.get("bnb_4bit_quant_type")) or "fp4") + double)


def _aqlm_bits(config: Mapping[str, Any]) -> int | None:
    """Bits of codes a weight, of all codebooks together, where they are whole."""
    values = [
        positive(config.get(key)) for key in ("num_codebooks", "nbits_per_codebook", "in_group_size", "out_group_size")
    ]
    books, bits, wide, high = (value or 0 for value in values)
    each = wide * high
    return books * bits // each if each and books and bits and books * bits % each == 0 else bits or None


def _torchao_type(config: Mapping[str, Any]) -> str | None:
    kind = config.get("quant_type")
    while isinstance(kind, Mapping):
        kind = kind.get("default", kind.get("_type"))
    return text(kind)


def _first_int(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((value for key in keys if (value := integer(config.get(key))) is not None), None)


def is_symmetric(config: Mapping[str, Any], weights: Mapping[str, Any]) -> bool | None:
    """Whether codes have no zero point, None where the section does not say."""
    said = config.get("sym", weights.get("symmetric"))
    if type(said) is bool:
        return said
    return not config["zero_point"] if "zero_point" in config else None


def kv_cache(method: str, config: Mapping[str, Any]) -> str | None:
    """The dtype asked for the KV cache: a word as written, a scheme as `float8`, with `dynamic ` before it where ModelOpt's is."""
    said = config.get("kv_cache_scheme") or config.get("kv_cache_quant_algo")
    if not isinstance(said, Mapping):
        return text(said)
    dynamic = method == "modelopt" and said.get("num_bits") == 8 and said.get("dynamic") is not False
    return f"{'dynamic ' if dynamic else ''}{said.get('type', 'int')}{said.get('num_bits', '')}"


def unquantized(config: Mapping[str, Any], *, grouped: bool) -> tuple[str, ...]:
    """The modules said to stay as they were, as written, in whichever dialect.

    Args:
        grouped: the section has `config_groups`; without them it may be of a model that is pruned alone.
    """
    said = (config[key] for key in _EXCEPTIONS if isinstance(config.get(key), (list, tuple)) and config[key])
    names = tuple(str(item).removesuffix(".weight") for item in next(said, ()))
    pruned = mapping(config.get("sparsity_config")).get("ignore")
    if not names and not grouped and isinstance(pruned, list):
        names = tuple(str(item) for item in pruned)
    return names + tuple(f"re:{name[2:]}" for name in mapping(config.get("dynamic")) if name.startswith("-:"))


def pair(value: Any) -> tuple[int, int] | None:
    """The value if it is two sizes."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value):
        return value[0], value[1]
    return None
