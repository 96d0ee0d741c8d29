"""hfmem: exactly what a Hugging Face model needs to be served, before a byte of weights is downloaded.

>>> import hfmem
>>> report = hfmem.estimate("meta-llama/Meta-Llama-3-8B", context=131072)  # doctest: +SKIP
>>> report.weights.bytes  # doctest: +SKIP
16060522496
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfmem.errors import HfmemError

if TYPE_CHECKING:
    from hfmem.api.answers import fit
    from hfmem.api.estimates import estimate
    from hfmem.render.json import report_dict as to_dict
    from hfmem.render.table import report_text as to_text
    from hfmem.report import Report

__version__ = "0.1.0"
__all__ = ["HfmemError", "Report", "__version__", "estimate", "fit", "to_dict", "to_text"]

#: public names and the modules and names they live under; loaded when first used, so that `import hfmem` stays cheap
_LAZY = {
    "estimate": ("hfmem.api.estimates", "estimate"),
    "fit": ("hfmem.api.answers", "fit"),
    "Report": ("hfmem.report", "Report"),
    "to_dict": ("hfmem.render.json", "report_dict"),
    "to_text": ("hfmem.render.table", "report_text"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        module, inside = _LAZY[name]
        return getattr(import_module(module), inside)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
