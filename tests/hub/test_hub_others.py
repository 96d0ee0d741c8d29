"""What else people point at: adapters, draft models, pipelines, sentence-transformers, ONNX, and what holds no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import Blob, HubServer, header_bytes, shard, sharded
from small_llama import LLAMA, PARAMETERS, TOKEN_BYTES, llama_tensors

from hfmem.api.estimates import estimate
from hfmem.cli import main
from hfmem.errors import HfmemError, UnsupportedError, UsageError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.adapter import load_adapter
from hfmem.memory.lora import rank_to_reserve, read_adapter

FRESH = FetchOptions(no_cache=True)
Tensors = list[tuple[str, str, tuple[int, ...]]]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def adapter_tensors(rank: int) -> Tensors:
    found: Tensors = []
    for layer in range(2):
        for name, rows in (("q_proj", 64), ("v_proj", 32)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            found += [(f"{stem}.lora_A.weight", "F32", (rank, 64)), (f"{stem}.lora_B.weight", "F32", (rows, rank))]
    return found


def adapter_files(rank: int = 8, base: str | None = "org/base") -> dict[str, Any]:
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    if base is not None:
        config["base_model_name_or_path"] = base
    return {"adapter_config.json": config, "adapter_model.safetensors": shard(adapter_tensors(rank))}


#: 2 layers, q 64 → 64 and v 64 → 32: elements of A and B for each unit of rank
ADAPTER_ROWS = 2 * ((64 + 64) + (64 + 32))
#: every linear layer: q, k, v, o, gate, up, down
LINEAR_ROWS = 2 * ((64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 128))
#: embedding and head
TABLE_ROWS = 2 * (100 + 64)


@pytest.fixture
def served(hub: HubServer) -> HubServer:
    hub.add("org/base", {"config.json": LLAMA, "model.safetensors": shard(llama_tensors())})
    hub.add("org/adapter", adapter_files())
    return hub


@pytest.mark.parametrize(
    ("engine", "bytes_each"),
    [
        ("vllm", 16 * 2 * (LINEAR_ROWS + TABLE_ROWS)),  # rank 16 is the least that vLLM keeps room for, in 16 bit
        ("sglang", 8 * 2 * ADAPTER_ROWS),
        ("transformers", 8 * 4 * ADAPTER_ROWS),  # as stored, in fp32
        ("ideal", 8 * 4 * ADAPTER_ROWS),
    ],
)
def test_adapters_add_to_the_total(served: HubServer, engine: str, bytes_each: int) -> None:
    plain = estimate("org/base", context=64, engine=engine, fetch=FRESH)
    report = estimate("org/base", context=64, engine=engine, lora="org/adapter", max_loras=4, fetch=FRESH)
    assert report.total_bytes - plain.total_bytes == 4 * bytes_each
    assert report.runtime["lora_bytes"].bytes == 4 * bytes_each
    assert report.lora is not None
    assert (report.lora.id, report.lora.rank, report.lora.alpha) == ("org/adapter", 8, 16.0)
    assert report.lora.target_modules == ("q_proj", "v_proj") and report.lora.bytes == 8 * 4 * ADAPTER_ROWS
    assert report.lora.parameters == 8 * ADAPTER_ROWS and report.lora.base_model == "org/base"


def test_room_for_adapters_is_split_over_ranks(served: HubServer) -> None:
    """Two ranks: outputs of q, k, v, gate and up halve, and inputs of o and down; the tables stay whole."""
    report = estimate("org/base", context=64, tp=2, lora="org/adapter", max_lora_rank=32, fetch=FRESH)
    rows = 2 * ((64 + 32) + 2 * (64 + 16) + (32 + 64) + 2 * (64 + 64) + (64 + 64))
    assert report.runtime["lora_bytes"].bytes == 32 * 2 * (rows + TABLE_ROWS)


def test_an_adapter_alone_is_its_base_with_it(served: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "org/adapter", "--ctx", "64", "--json")
    report = json.loads(out)
    assert code == 0 and report["model"]["id"] == "org/base" and report["lora"]["id"] == "org/adapter"
    assert report["parameters"]["total"] == PARAMETERS
    assert "org/adapter is a LoRA adapter of rank 8" in report["model"]["notice"]
    both = estimate("org/base", context=64, lora="org/adapter", fetch=FRESH)
    assert report["total_bytes"] == both.total_bytes
    served.add("org/orphan", adapter_files(base=None))
    code, _, err = run(capsys, "org/orphan")
    assert code == 3 and "it is an adapter (PEFT)" in err
    served.add("org/lost", adapter_files(base="org/gone"))
    code, _, err = run(capsys, "org/lost")
    assert code == 3 and "org/lost is an adapter, and its base model cannot be read: org/gone" in err
    served.add("org/circle", adapter_files(base="org/circle"))
    with pytest.raises(HfmemError):
        estimate("org/circle", fetch=FRESH)


def test_wrong_use_of_adapters(served: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--max-loras", "2"), ("--lora", "org/adapter", "--max-lora-rank", "7")):
        assert run(capsys, "org/base", *words)[0] == 2
    code, _, err = run(capsys, "org/base", "--lora", "org/base")
    assert code == 3 and "org/base is no adapter" in err
    served.add("org/large", adapter_files(600))
    code, _, err = run(capsys, "org/base", "--lora", "org/large")
    assert code == 4 and "rank of 600" in err
    other = adapter_files()
    other["adapter_config.json"] = {"peft_type": "PROMPT_TUNING"}
    other["adapter_model.safetensors"] = shard([("prompt_embeddings", "F32", (8, 64))])
    served.add("org/prompt", other)
    with pytest.raises(UnsupportedError, match="PROMPT_TUNING; only LoRA is counted"):
        estimate("org/base", lora="org/prompt", fetch=FRESH)
    served.add("org/elsewhere", adapter_files(base="org/other-model"))
    report = estimate("org/base", context=64, lora="org/elsewhere", fetch=FRESH)
    assert any(w.code == "lora_base_differs" for w in report.warnings)
    front, size = header_bytes(adapter_tensors(8))
    (tmp_path / "adapter_model.safetensors").write_bytes(front + bytes(size - len(front)))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    facts = load_adapter(str(tmp_path))
    assert read_adapter("x", facts.config, facts.checkpoint, None).parameters == 8 * ADAPTER_ROWS


def test_ranks_that_vllm_takes() -> None:
    assert [rank_to_reserve(rank, None) for rank in (1, 8, 16, 17, 100, 512)] == [16, 16, 16, 32, 128, 512]
    assert rank_to_reserve(8, 8) == 8
    with pytest.raises(UsageError, match="below the adapter's rank 64"):
        rank_to_reserve(64, 32)


def test_a_draft_model_adds_weights_and_cache(served: HubServer) -> None:
    small = {**LLAMA, "num_hidden_layers": 1}
    tensors = [t for t in llama_tensors() if ".layers.1." not in t[0]]
    served.add("org/draft", {"config.json": small, "model.safetensors": shard(tensors)})
    plain = estimate("org/base", context=1024, num_seqs=2, engine="vllm", fetch=FRESH)
    report = estimate("org/base", context=1024, num_seqs=2, engine="vllm", draft="org/draft", fetch=FRESH)
    alone = estimate("org/draft", context=1024, num_seqs=2, engine="vllm", fetch=FRESH)
    added = alone.per_rank.weights_bytes + alone.per_rank.kv_cache_bytes
    assert alone.kv_cache.bytes == 2 * 1024 * TOKEN_BYTES // 2
    assert report.total_bytes - plain.total_bytes == added
    assert report.draft is not None and report.draft.id == "org/draft"
    assert report.draft.kv_cache_bytes_per_rank == alone.kv_cache.bytes
    served.add("org/words", {"config.json": {**small, "vocab_size": 50}})
    other = estimate("org/base", context=64, draft="org/words", fetch=FRESH)
    assert any(w.code == "draft_vocabulary_differs" for w in other.warnings)


def test_the_models_own_prediction_layers_draft(served: HubServer) -> None:
    """GLM-4 MoE's layout: layers beyond `num_hidden_layers` predict; here one, of 4 KV heads × 16 in 16 bit."""
    config = {
        "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "torch_dtype": "bfloat16", "hidden_size": 64,
        "intermediate_size": 128, "moe_intermediate_size": 32, "num_hidden_layers": 1, "first_k_dense_replace": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 4096, "num_nextn_predict_layers": 1,
        "n_group": 1, "topk_group": 1, "use_qk_norm": False, "attention_bias": False,
    }  # fmt: skip
    own = [t for t in llama_tensors() if ".layers." not in t[0] or ".layers.0." in t[0]]
    wide = [(n, d, (64, 64)) if ".k_proj" in n or ".v_proj" in n else (n, d, s) for n, d, s in own]
    nextn = [
        ("model.layers.1.eh_proj.weight", "BF16", (64, 128)),
        ("model.layers.1.enorm.weight", "BF16", (64,)),
        ("model.layers.1.embed_tokens.weight", "BF16", (100, 64)),  # vLLM takes the target's instead
    ]
    served.add("org/glm", {"config.json": config, "model.safetensors": shard([*wide, *nextn])})
    plain = estimate("org/glm", context=1024, engine="vllm", fetch=FRESH)
    report = estimate("org/glm", context=1024, engine="vllm", draft="mtp", fetch=FRESH)
    assert report.draft is not None and report.draft.weights_bytes == 2 * (64 * 128 + 64 + 6400)
    assert report.draft.kv_cache_bytes_per_rank == 1024 * 2 * 4 * 16 * 2
    assert report.per_rank.weights_bytes - plain.per_rank.weights_bytes == 2 * (64 * 128 + 64)
    assert report.kv_cache.bytes - plain.kv_cache.bytes == report.draft.kv_cache_bytes == 1024 * 256
    with pytest.raises(UsageError, match="org/base stores no prediction layers"):
        estimate("org/base", draft="mtp", fetch=FRESH)


def test_a_pipeline_by_component(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    unet = {f"transformer/{k.replace('model', 'diffusion_pytorch_model')}": v for k, v in sharded({
        "diffusion_a.safetensors": [("a.weight", "BF16", (100, 10))], "diffusion_b.safetensors": [("b.weight", "BF16", (50, 10))],
    }).items()}  # fmt: skip
    hub.add(
        "org/flux",
        {
            "model_index.json": {
                "_class_name": "FluxPipeline",
                "_diffusers_version": "0.30",
                "scheduler": ["diffusers", "FlowMatch"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "transformer": ["diffusers", "FluxTransformer2DModel"],
                "safety_checker": [None, None],
            },
            "scheduler/scheduler_config.json": {},
            "text_encoder/model.safetensors": shard([("w", "F32", (7, 3))]),
            "text_encoder/model.fp16.safetensors": shard([("w", "F16", (7, 3))]),
            **unet,
        },
    )
    code, out, err = run(capsys, "org/flux", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [(c["name"], c["bytes"], c["parameters"]) for c in found["components"]] == [
        ("scheduler", None, None),
        ("text_encoder", 84, 21),
        ("transformer", 3000, 1500),
    ]
    assert found["total_bytes"] == 3084 and found["kv_cache"] is None
    code, out, _ = run(capsys, "org/flux")
    assert code == 0 and "FluxPipeline" in out and "no KV cache" in out
    with pytest.raises(HfmemError, match=r"diffusers pipeline \(FluxPipeline\)"):
        load_model("org/flux", options=FRESH)


def test_a_sentence_transformer_in_its_folder(hub: HubServer) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    hub.add(
        "org/st",
        {
            "modules.json": modules,
            "0_Transformer/config.json": LLAMA,
            "0_Transformer/model.safetensors": shard(llama_tensors()),
            "1_Pooling/config.json": {},
        },
    )
    facts = load_model("org/st", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 2 * PARAMETERS
    assert facts.config_file == "0_Transformer/config.json" and "sentence-transformers" in str(facts.notice)
    hub.add("org/evil", {"modules.json": [{"path": "../../org/st/0_Transformer", "type": "x.Transformer"}]})
    with pytest.raises(HfmemError, match=r"has no config\.json"):
        load_model("org/evil", options=FRESH)


def test_onnx_by_size(hub: HubServer) -> None:
    hub.add(
        "org/onnx",
        {
            "config.json": LLAMA,
            "onnx/model.onnx": Blob(b"", 1000),
            "onnx/model.onnx_data": Blob(b"", 2 * PARAMETERS),
            "onnx/model_q4.onnx": Blob(b"", 60_000),
        },
    )
    report = estimate("org/onnx", context=64, fetch=FRESH)
    assert report.weights.bytes == 1000 + 2 * PARAMETERS and report.weights.evidence == "index"
    assert report.weights.download_bytes == 1000 + 2 * PARAMETERS
    assert "ONNX export: onnx/model.onnx with 1 file of data" in str(report.model.notice)
    assert any("model_q4.onnx" in w.message for w in report.warnings if w.code == "onnx_variants")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"preprocessor_config.json": {}, "README.md": b""}, "it holds a processor and no model"),
        ({"processor_config.json": {}, "tokenizer.json": {}}, "it holds a processor and a tokenizer and no model"),
        ({"tokenizer_config.json": {}, "vocab.json": {}}, "it holds a tokenizer and no model"),
    ],
)
def test_processors_alone(
    hub: HubServer, capsys: pytest.CaptureFixture[str], files: dict[str, Any], words: str
) -> None:
    hub.add("org/p", files)
    code, _, err = run(capsys, "org/p")
    assert code == 3 and err == f"error: org/p has no config.json; {words}\n"


def test_datasets_and_spaces(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("datasets/org/d", "https://huggingface.co/datasets/org/d"):
        code, _, err = run(capsys, text)
        assert code == 2 and "is a dataset, not a model" in err
    hub.other_types = {"datasets/org/d", "spaces/org/s"}
    for name, kind in (("org/d", "dataset"), ("org/s", "Space")):
        code, _, err = run(capsys, name)
        assert code == 3 and f"{name} is a {kind} on the Hub, not a model" in err
