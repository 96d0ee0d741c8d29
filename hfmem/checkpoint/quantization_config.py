"""What a repository says about its quantization, in the five files and the dozen dialects that say it.

`quantization_config` (or `compression_config`) of config.json, `quantization` of MLX, `hf_quant_config.json` of modelopt,
`quantize_config.json` of AutoGPTQ, `quant_config.json` of AutoAWQ and `quanto_qmap.json` become one `Quantization`. The tensors
stay the evidence for sizes; this supplies what shapes cannot tell (bits of a packed integer, group sizes) and what
the report names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hfmem.checkpoint.config_layouts import blocks_of
from hfmem.checkpoint.config_methods import own_layouts
from hfmem.checkpoint.config_schemes import torchao_by_name
from hfmem.checkpoint.config_section import QUANTO_MAP, is_symmetric, kv_cache, method_of, pair, precision, unquantized
from hfmem.checkpoint.config_targets import EVERY_LINEAR, Target, config_groups, exceptions, mapping, overrides, text
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
    method = method_of(file, config)
    if method is None:
        return None
    first, grouped = config_groups(config)
    weights = mapping(first.get("weights"))
    stored = precision(method, config, weights)
    block = pair(config.get("weight_block_size")) or pair(weights.get("block_structure"))
    targets = overrides(config) or grouped if stored.mixed else grouped or overrides(config)
    scheme, targets = own_layouts(method, config, stored.bits, stored.group_size, block, targets)
    return Quantization(
        method=method,
        algorithm=stored.algorithm,
        bits=stored.bits if stored.bits is not None or scheme is None else scheme.bits,
        group_size=stored.group_size,
        block=block,
        symmetric=is_symmetric(config, weights),
        ignored=() if stored.mixed and method == "fp8" else unquantized(config, grouped=bool(first)),
        kv_cache=kv_cache(method, config),
        targets=targets,
        file=file,
        others_plain=_others_plain(method, config, first, grouped, targets, mixed=stored.mixed),
        scheme=scheme,
        only=blocks_of(config) if method == "auto-round" else (),
        head=method in ("gptq", "awq") and config.get("lm_head") is True,
        # AutoGPTQ's own words (0.7.1 `modeling/_base.py`), whose `make_quant` gives every matrix a bias; GPTQModel's `meta`
        biases=method == "gptq" and "model_file_base_name" in config and not config.get("meta"),
    )


def _others_plain(
    method: str,
    config: Mapping[str, Any],
    first: Mapping[str, Any],
    grouped: tuple[Target, ...],
    targets: tuple[Target, ...],
    *,
    mixed: bool,
) -> bool:
    """Whether the modules that no target names stay as they were."""
    match method:
        case "fp8":
            return False
        case "spqr" | "vptq" | "quanto" if targets:
            return True
        case "torchao" if targets and (torchao_by_name(config) or {}).get("_default") is None:
            return True  # its configurations by name say nothing of the others, or that they stay
        case "compressed-tensors" if not first and "sparsity_config" not in config:
            return True  # a cache's format alone
        case _:
            return mixed or (bool(grouped) and all(target.match != EVERY_LINEAR for target in grouped))
