"""Reading models: references, the Hub, its cache, local folders, the shipped catalogue. The only package that does I/O."""

from __future__ import annotations

from hfmem.hub.facts import FetchStats, ModelFacts, Progress, WeightFile
from hfmem.hub.options import FetchOptions
from hfmem.hub.source import load_model

__all__ = ["FetchOptions", "FetchStats", "ModelFacts", "Progress", "WeightFile", "load_model"]
