"""What a quantization section says of some modules alone: other bits, another layout, or that they stay as they were."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any, Final

from hfmem.checkpoint.config_compressed import compressed_scheme, halved
from hfmem.checkpoint.schemes import Scheme
from hfmem.records import dataclass

#: the class of modules that a target may name instead of modules
EVERY_LINEAR: Final = "Linear"
#: from this width on a module is no quantized one (AutoRound writes 16 for what it leaves)
_WHOLE_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class Target:
    """Modules with bits, group or format of their own. `match` is `re:…`, a shell pattern, a name, or a class name (`Linear`).

    `scheme`: their layout, of methods that have words of their own for it. `plain`: they stay as they were.
    """

    match: str
    bits: int | None
    group_size: int | None
    algorithm: str | None = None
    scheme: Scheme | None = None
    plain: bool = False

    def fits(self, module: str) -> bool:
        """Whether the target speaks of the module of this name."""
        return fits(self.match, module)


def fits(pattern: str, module: str, *, prefix: bool = False) -> bool:
    """Whether a pattern of a section speaks of a module; with `prefix` also of what lies inside the one that it names."""
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


def config_groups(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Target, ...]]:
    """The first of `config_groups`, and a target for each name in them beyond one "every Linear"."""
    groups = [group for group in mapping(config.get("config_groups")).values() if isinstance(group, Mapping)]
    groups = [group for group in groups if isinstance(group.get("weights"), Mapping)]
    if not groups:
        return {}, ()
    targets, sparse = [], halved(config)
    for group in groups:
        weights, names = group["weights"], group.get("targets")
        scheme = None if sparse is None else compressed_scheme(group, config, sparse=sparse)
        for name in names if isinstance(names, list) else ():
            bits, size = integer(weights.get("num_bits")), positive(weights.get("group_size"))
            targets.append(Target(str(name), bits, size, text(group.get("format")), scheme))
    if len(groups) == 1 and any(target.match == EVERY_LINEAR for target in targets):
        return groups[0], ()
    return groups[0], tuple(targets)


def overrides(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """Per-module entries: MLX puts `{name: {bits, group_size}}` (or false) beside its defaults, GPTQModel regular expressions in
    `dynamic`, AutoRound names in `extra_config`, ModelOpt in `quantized_layers`."""
    out = []
    for name, value in config.items():
        if isinstance(value, Mapping) and isinstance(value.get("bits"), int):
            mode = text(value.get("mode"))
            out.append(Target(name, integer(value.get("bits")), positive(value.get("group_size")), mode or "affine"))
        elif value is False and ("." in name or name == "lm_head"):  # a module; other flags are the section's
            out.append(Target(name, None, None, plain=True))
    for key, prefix in (("dynamic", "re:"), ("extra_config", ""), ("quantized_layers", "")):
        for name, value in mapping(config.get(key)).items():
            if isinstance(value, Mapping) and not name.startswith("-:"):
                algorithm = text(value.get("quant_algo"))
                bits = integer(value.get("bits"))
                bits = bits_in(algorithm) if bits is None else bits
                plain = bits is not None and bits >= _WHOLE_BITS
                match = prefix + name.removeprefix("+:")
                if key == "extra_config" and re.search(
                    r"[\\^$+(\[|]|\.\*", match
                ):  # AutoRound takes patterns for names, too
                    match = f"re:.*(?:{match})"
                out.append(Target(match, bits, positive(value.get("group_size")), algorithm, plain=plain))
    return tuple(out)


def bits_in(algorithm: str | None) -> int | None:
    """`NVFP4` → 4, `W4A16_AWQ` → 4, `FP8_PB_WO` → 8, `int8_weight_only` → 8."""
    match = re.search(r"(?:fp|int|w|nf|float)_?(\d)", (algorithm or "").lower())
    return int(match.group(1)) if match else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def integer(value: Any) -> int | None:
    """The value if it is a whole number."""
    return value if type(value) is int else None


def positive(value: Any) -> int | None:
    """The value if it is a whole number above 0."""
    return value if type(value) is int and value > 0 else None


def text(value: Any) -> str | None:
    """The value if it is a word."""
    return value if type(value) is str and value else None
