"""What a repository says about its quantization, in the five files and the dozen dialects that say it.

`quantization_config` (or `compression_config`) of config.json, `quantization` of MLX, `hf_quant_config.json` of modelopt,
`quantize_config.json` of AutoGPTQ, `quant_config.json` of AutoAWQ and `quanto_qmap.json` become one `Quantization`. The tensors
stay the evidence for sizes; this supplies what shapes cannot tell (bits of a packed integer, group sizes) and what
the report names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hfmem.checkpoint.config_grouped import is_quanto_map
from hfmem.checkpoint.config_layouts import blocks_of, quark_word
from hfmem.checkpoint.config_methods import own_layouts
from hfmem.checkpoint.config_schemes import torchao_by_name
from hfmem.checkpoint.config_targets import (
    EVERY_LINEAR,
    Target,
    bits_in,
    config_groups,
    exceptions,
    integer,
    mapping,
    overrides,
    positive,
    text,
)
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
        "quanto",
        "quip",
        "sinq",
        "torchao",
    }
)

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
    *(
        "ignored_layers",
        "modules_to_not_convert",
        "ignore",
        "exclude_modules",
        "llm_int8_skip_modules",
        "exclude",
        "skip_modules",
    ),
    "linear_weights_not_to_quantize",
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """What the configuration files say. `group_size` None is one scale a channel or a tensor; `block` is rows × columns of a scale.

    `ignored` are the modules said to stay as they were, as written. `kv_cache` is the dtype the file asks for the KV
    cache, `expert_dtype` that of routed experts where they differ from the rest (DeepSeek V4: fp4; MiMo-V2: mxfp4), as written.
    `others_plain`: modules that none of `targets` names stay as they were. `only`: prefixes outside of which modules stay so, too.
    `head`: the output head is quantized. `biases`: each packed matrix has a bias, of zeros where the model has none. `scheme`: the
    layout, of methods that have words of their own for it.
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
    only: tuple[str, ...] = ()
    head: bool = False
    biases: bool = False

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

    def exceptions(self) -> Callable[[str], bool]:
        """Whether the file says that the module of a name stays unquantized."""
        return exceptions(self.ignored)

    def target_of(self, module: str) -> Target | None:
        """What the file says of this module alone, a class of modules (`Linear`) last."""
        named = next((t for t in self.targets if t.fits(module)), None)
        return named or next((t for t in self.targets if t.match == EVERY_LINEAR), None)

    def bits_of(self, module: str) -> int | None:
        """Bits of this module's weights, None where the file does not say."""
        return next((t.bits for t in self.targets if t.bits and t.fits(module)), self.bits)

    def group_size_of(self, module: str) -> int | None:
        """Weights that share a scale in this module, None where the file does not say or it is a whole row."""
        return next((t.group_size for t in self.targets if t.fits(module)), self.group_size)


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
            return replace(found, expert_dtype=text(experts) or text(config.get("store_dtype")))
    return None


def _candidates(files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    config = files.get("config.json", {})
    nested = [config, *(config.get(key) for key in ("text_config", "llm_config", "language_config", "thinker_config"))]
    for part in nested:
        if isinstance(part, Mapping):
            for key in ("quantization_config", "compression_config", "quantization"):
                if isinstance(part.get(key), Mapping):
                    yield "config.json", part[key]
    for name in ("hf_quant_config.json", "quantize_config.json", "quant_config.json", QUANTO_MAP):
        if isinstance(files.get(name), Mapping):
            yield name, files[name]


def _parse(file: str, config: Mapping[str, Any]) -> Quantization | None:
    nested = config.get("quantization")
    if isinstance(nested, Mapping):  # hf_quant_config.json wraps what matters
        config = {**nested, "quant_method": config.get("quant_method", "modelopt")}
    method = _method(file, config)
    if method is None:
        return None
    first, targets = config_groups(config)
    weights = mapping(first.get("weights"))
    bits = _first_int(config, "bits", "w_bit", "num_bits", "nbits", "weight_bits") or integer(weights.get("num_bits"))
    group = _first_int(config, "group_size", "q_group_size") or integer(weights.get("group_size"))
    algorithm = text(config.get("quant_algo")) or text(config.get("format")) or text(config.get("fmt"))
    block = _pair(config.get("weight_block_size")) or _pair(weights.get("block_structure"))
    symmetric = _bool(config.get("sym", weights.get("symmetric")))
    if "zero_point" in config and symmetric is None:
        symmetric = not config["zero_point"]
    match method:
        case "bitsandbytes":
            four = bool(config.get("load_in_4bit") or config.get("_load_in_4bit"))
            bits = 4 if four else 8
            algorithm = (text(config.get("bnb_4bit_quant_type")) or "fp4") if four else "int8"
            algorithm += "-double" if four and config.get("bnb_4bit_use_double_quant") is True else ""
            group = 64 if four else None  # bitsandbytes' default block; the configuration has no key for it
        case "mxfp4":
            bits, group, algorithm = 4, 32, "mxfp4"
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
        case _:
            pass
    if bits is None and algorithm:
        bits = bits_in(algorithm)
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
            for key in _EXCEPTIONS
            if isinstance(config.get(key), (list, tuple)) and config[key]
        ),
        (),
    )
    pruned = mapping(config.get("sparsity_config")).get("ignore")
    if not ignored and not first and isinstance(pruned, list):  # pruned alone: what stayed whole is said there
        ignored = tuple(str(item) for item in pruned)
    ignored += tuple(f"re:{name[2:]}" for name in mapping(config.get("dynamic")) if name.startswith("-:"))
    mixed = (algorithm or "").upper() == "MIXED_PRECISION"
    if mixed and method == "modelopt":  # each module by name, with its format; the groups say bits alone
        targets = overrides(config) or targets
    if mixed and method == "fp8":  # some modules in a format of their own, the others as an FP8 file has them
        mixed, algorithm, ignored, targets = False, text(config.get("fmt")), (), overrides(config)
        bits, group = 8, None
    others_plain = mixed or (bool(targets) and all(target.match != EVERY_LINEAR for target in targets))
    others_plain = others_plain and method != "fp8"
    targets = targets or overrides(config)
    scheme, targets = own_layouts(method, config, bits, group if group and group > 0 else None, block, targets)
    bits = bits if bits is not None or scheme is None else scheme.bits
    if (method in ("spqr", "vptq", "quanto") and targets) or (method == "torchao" and targets and _leaves_rest(config)):
        others_plain = True
    if method == "compressed-tensors" and not first and "sparsity_config" not in config:  # a cache's format alone
        others_plain = True
    if method == "auto-round" and not (text(config.get("data_type")) or "int").startswith("int"):
        scheme, bits, targets = None, None, ()  # floating-point formats are packed in other ways
    return Quantization(
        method=method,
        algorithm=algorithm,
        bits=bits,
        group_size=group if group and group > 0 else None,
        block=block,
        symmetric=symmetric,
        ignored=ignored,
        kv_cache=text(kv),
        targets=targets,
        file=file,
        others_plain=others_plain,
        scheme=scheme,
        only=blocks_of(config) if method == "auto-round" else (),
        head=method in ("gptq", "awq") and config.get("lm_head") is True,
        # AutoGPTQ's own words (0.7.1 `modeling/_base.py`), whose `make_quant` gives every matrix a bias; GPTQModel's `meta`
        biases=method == "gptq" and "model_file_base_name" in config and not config.get("meta"),
    )


def _leaves_rest(config: Mapping[str, Any]) -> bool:
    """Whether torchao's configurations by name say nothing of the modules that they do not name, or that they stay."""
    return (torchao_by_name(config) or {}).get("_default") is None


def _method(file: str, config: Mapping[str, Any]) -> str | None:
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


def _bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value):
        return value[0], value[1]
    return None
