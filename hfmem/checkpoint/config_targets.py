"""What a quantization section says of some modules alone: other bits, another layout, or that they stay as they were."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from hfmem.checkpoint.config_compressed import compressed_scheme, halved
from hfmem.checkpoint.schemes import Scheme
from hfmem.errors import UnsupportedError
from hfmem.records import dataclass

#: the class of modules that a target may name instead of modules
EVERY_LINEAR: Final = "Linear"
#: what wrappers call the text model in them
_TEXT: Final = "language_model"
#: from this width on a module is no quantized one (AutoRound writes 16 for what it leaves)
_WHOLE_BITS: Final = 16
#: characters of a regular expression, and how often it may say "any number of"
_MAX_EXPRESSION: Final = 2000
_MAX_REPEATS: Final = 6


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


def fits(pattern: str, module: str) -> bool:
    """Whether a pattern of a section speaks of a module.

    Raises:
        UnsupportedError: a regular expression that could take forever.
    """
    if pattern.startswith("re:"):
        compiled = _compiled(pattern[3:])
        return compiled is not None and compiled.match(module) is not None
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(module, pattern)
    return module == pattern or module.endswith("." + pattern)


def exceptions(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether one of the patterns speaks of a module, or of what it lies in; sections name thousands, of models of any depth.

    A wrapper's text model may be listed by the names it has on its own (GLM-5.3-Flash: `model.layers.0.…` for
    `model.language_model.layers.0.…`).

    Raises:
        UnsupportedError: as `fits`, when it is asked.
    """
    patterns = tuple(patterns)
    expressions = [pattern for pattern in patterns if pattern.startswith("re:")]
    globs = [p for p in patterns if p not in expressions and re.search(r"[*?]", p)]
    whole = frozenset(patterns).difference(expressions, globs)
    some = re.compile("|".join(fnmatch.translate(glob) for glob in globs)) if globs else None

    def speaks(module: str) -> bool:
        parts = module.split(".") if whole else []
        if _holds(whole, parts) or (_TEXT in parts and _holds(whole, [part for part in parts if part != _TEXT])):
            return True
        if some is not None and some.match(module):
            return True
        return any(fits(expression, module) for expression in expressions)

    return speaks


def _holds(names: Container[str], parts: Sequence[str]) -> bool:
    """Whether some run of the parts of a name is one of `names`."""
    ends = range(1, len(parts) + 1)
    return any(".".join(parts[start:end]) in names for end in ends for start in range(end))


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str] | None:
    """The expression, ready; None: it is none."""
    if not _is_tame(expression):
        raise UnsupportedError(
            f"quantization_config: the pattern {expression[:60]!r} repeats what repeats, or too often, to be tried on every module"
        )
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError):
        return None


def _is_tame(expression: str) -> bool:
    """Whether matching it takes no more steps than a small power of a name's length: no repeated group repeats inside."""
    text = re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", expression))
    if len(expression) > _MAX_EXPRESSION or len(re.findall(r"[*+]|,\}", text)) > _MAX_REPEATS:
        return False
    while (group := re.search(r"\(([^()]*)\)([*+{]?)", text)) is not None:
        repeats = re.search(r"[*+{]", group[1]) is not None
        if repeats and group[2]:
            return False
        text = text[: group.start()] + ("x*" if repeats else "x") + text[group.end(1) + 1 :]
    return True


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
