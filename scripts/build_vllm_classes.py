"""Write hfmem/memory/engines/vllm/data/classes.json: what vLLM's registry says of each class that it serves.

Facts only, as `_ModelInfo` in vLLM's `model_executor/models/registry.py` reads them off the classes. Run where the vLLM release
that the table should speak of can be imported:

    python scripts/build_vllm_classes.py hfmem/memory/engines/vllm/data/classes.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vllm.model_executor.models.registry import ModelRegistry, _ModelInfo


def words(info: Any) -> str:
    """The facts of one class that change what it holds or refuses, as words."""
    found = {
        "generates": info.is_text_generation_model,
        "pools": info.is_pooling_model,
        "pp": info.supports_pp,
        "lora": info.supports_lora,
        "mm": info.supports_multimodal,
        f"attn={info.attn_type}": info.attn_type != "decoder",
        f"pool={info.default_seq_pooling_type}": info.default_seq_pooling_type != "LAST",
        f"tokens={info.default_tok_pooling_type}": info.default_tok_pooling_type != "ALL",
    }
    return " ".join(word for word, true in found.items() if true)


def main() -> None:
    """Inspect every class of the registry and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--version", help="vLLM's release, where the package cannot tell")
    args = parser.parse_args()
    classes, failed = {}, {}
    for name in sorted(ModelRegistry.models):
        try:
            classes[name] = words(_ModelInfo.from_model_cls(ModelRegistry.models[name].load_model_cls()))
        except ImportError as error:  # an optional package of that class alone
            failed[name] = str(error)
    version = args.version
    if version is None:
        import vllm

        version = vllm.__version__
    rows = ",\n".join(f"{json.dumps(name)}:{json.dumps(text)}" for name, text in classes.items())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(f'{{"source":"vLLM {version}, model registry","classes":{{\n{rows}\n}}}}\n')
    print(f"{args.output}: {len(classes)} classes; not importable: {failed}")


if __name__ == "__main__":
    main()
