"""What `hfmem MODEL` says of a diffusers pipeline: its components."""

from __future__ import annotations

from typing import Any

from hfmem.cli.output import show
from hfmem.hub.pipeline import PipelineError


def pipeline_rows(error: PipelineError, *, json: bool) -> dict[str, Any]:
    """The pipeline as a JSON value; as a table on stdout unless `json`."""
    from hfmem.render.json import to_dict, versioned
    from hfmem.render.pipeline import render_pipeline

    pipeline = error.pipeline
    if not json:
        show(render_pipeline(pipeline))
    parts = pipeline.components
    found = {
        "model": {"id": pipeline.id, "model_type": "diffusers", "architectures": [pipeline.kind]},
        "components": to_dict(parts),
        "parameters": {"total": sum(part.parameters or 0 for part in parts)},
        "weights": {"bytes": sum(part.bytes or 0 for part in parts)},
        "kv_cache": None,
        "total_bytes": sum(part.bytes or 0 for part in parts),
    }
    return versioned(found)
