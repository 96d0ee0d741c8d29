"""Settings that are said to an engine, and those that are left to its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands import Run
from launches import launch, words

from hfmem.memory.serving import LlamaCpp
from hfmem.plan.launch import emit


def test_caching_of_prefixes_is_said_as_it_is_asked_for() -> None:
    """Off by the engines' own words; left to their default where nobody says (`--enable-prefix-caching` is vLLM's alone)."""
    flags = {
        name: [
            [word for word in words(emit(name, launch(engine=name, enable_prefix_caching=asked))) if "cach" in word]
            for asked in (None, True, False)
        ]
        for name in ("vllm", "sglang")
    }
    assert flags == {
        "vllm": [[], ["--enable-prefix-caching"], ["--disable-prefix-caching"]],
        "sglang": [[], [], ["--disable-radix-cache"]],
    }


def test_llama_cpp_on_one_device_and_on_two() -> None:
    one, two = (words(emit("llama.cpp", launch(engine="llama.cpp", quant="q4_k_m", pp=count))) for count in (1, 2))
    assert "--split-mode" not in one and two[two.index("--split-mode") + 1] == "layer"
    assert "--n-cpu-moe" not in one and one[one.index("--n-gpu-layers") + 1] == "999"  # more than any model has
    moved = LlamaCpp(gpu_layers=20, cpu_moe_layers=6)
    found = words(emit("llama.cpp", launch(engine="llama.cpp", quant="q4_k_m", llama_cpp=moved)))
    assert found[found.index("--n-cpu-moe") + 1] == "6" and found[found.index("--n-gpu-layers") + 1] == "20"


def test_drafts_and_adapters() -> None:
    """A model that drafts and one's own prediction layers are told apart; so is a model with an adapter from one without."""

    def said(engine: str, **more: Any) -> list[str]:
        quant = "q4_k_m" if engine == "llama.cpp" else None
        bare = words(emit(engine, launch(engine=engine, quant=quant)))
        return words(emit(engine, launch(engine=engine, quant=quant, **more)))[len(bare) :]

    other, own = {"draft": "org/draft", "draft_tokens": 4}, {"draft": "mtp", "draft_method": "mtp", "draft_tokens": 3}
    flag, config = said("vllm", **other)
    plain = {"method": "draft_model", "model": "org/draft", "num_speculative_tokens": 4}
    assert (flag, json.loads(config)) == ("--speculative-config", plain)
    assert json.loads(said("vllm", **other, draft_words_differ=True)[1]) == plain | {"use_heterogeneous_vocab": True}
    assert json.loads(said("vllm", **own)[1]) == {"method": "mtp", "num_speculative_tokens": 3}
    steps = ["--speculative-num-steps", "4", "--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "5"]
    alone = ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", "org/draft"]
    assert said("sglang", **other) == [*alone, *steps]
    assert said("sglang", draft="mtp", draft_method="mtp") == ["--speculative-algorithm", "EAGLE"]
    assert said("vllm", lora="org/lora", max_lora_rank=32) == [
        *("--enable-lora", "--lora-modules", "adapter=org/lora", "--max-lora-rank", "32")
    ]
    for draft, line in (("org/draft", "assistant = AutoModelForCausalLM.from_pretrained('org/draft'"), ("mtp", None)):
        script = emit("transformers", launch(engine="transformers", draft=draft, lora="org/lora"))
        assert (line in script) if line else ("assistant" not in script)
        assert "model.load_adapter('org/lora')" in script
    assert "load_adapter" not in emit("transformers", launch(engine="transformers"))


def test_one_sequence_sets_no_limit() -> None:
    for name, flag in (("vllm", "--max-num-seqs"), ("sglang", "--max-running-requests")):
        assert flag not in words(emit(name, launch(engine=name, num_seqs=1)))
        assert flag in words(emit(name, launch(engine=name, num_seqs=2)))


def test_sglang_is_told_how_to_divide_its_pool() -> None:
    told = {"swa_full_tokens_ratio": 0.5, "mamba_full_memory_ratio": 2.0, "max_num_seqs": 9}
    found = words(emit("sglang", launch(engine="sglang", num_seqs=1, **told)))
    values = [
        found[found.index(flag) + 1]
        for flag in ("--swa-full-tokens-ratio", "--mamba-full-memory-ratio", "--max-running-requests")
    ]
    assert values == ["0.5", "2", "9"]
    assert not [word for word in words(emit("sglang", launch(engine="sglang"))) if "ratio" in word]


def test_llama_cpp_is_told_how_attention_runs(run: Run) -> None:
    asked = ("--offline", "--engine", "llama.cpp", "--gpu", "24GiB", "--ctx", "8k", "--emit", "llama.cpp")
    _, plain, _ = run("fit", "Qwen/Qwen3-8B", "--quant", "q4_k_m", *asked)
    assert not {"--flash-attn", "--ubatch-size", "--batch-size", "--no-kv-offload"} & set(words(plain))
    _, told, _ = run("fit", "Qwen/Qwen3-8B", "--quant", "q4_k_m", *asked, "-fa", "off", "-ub", "4096", "-nkvo")
    found = words(told)
    after = ["--flash-attn", "off", "--ubatch-size", "4096", "--batch-size", "4096", "--no-kv-offload"]
    assert found[found.index("--flash-attn") :][: len(after)] == after


def test_transformers_is_told_how_it_caches(run: Run) -> None:
    asked = (
        "--offline",
        "--gpu",
        "24GiB",
        "--ctx",
        "8k",
        "--cache-implementation",
        "offloaded_static",
        "--emit",
        "transformers",
    )
    _, told, _ = run("fit", "Qwen/Qwen3-8B", *asked)
    assert "model.generate(**inputs, max_length=8192, cache_implementation='offloaded_static')" in told
    assert "cache_implementation" not in emit("transformers", launch(engine="transformers"))


def test_every_part_of_a_split_file_is_mounted() -> None:
    for name, mounted in (
        ("/models/m-Q8_0.gguf", "/models/m-Q8_0.gguf"),
        ("/models/big/m-Q8_0-00001-of-00003.gguf", "/models/big"),
    ):
        found = words(emit("docker", launch(engine="llama.cpp", model=name, revision=None, is_gguf=True)))
        assert found[found.index("--volume") + 1] == f"{mounted}:{mounted}:ro"
        assert found[found.index("--model") + 1] == name


def test_deepseek_v4_is_told_what_it_drafts(run: Run) -> None:
    """SGLang: "Only EAGLE speculative algorithm with topk == 1 is supported for DeepseekV4ForCausalLM", not left to its default."""
    asked = ("--offline", "--engine", "sglang", "--gpu", "4xh200", "--ctx", "32k", "--draft", "mtp", "--emit", "sglang")
    _, out, _ = run("fit", "deepseek-ai/DeepSeek-V4-Flash", *asked)
    drafting = ["EAGLE", "--speculative-num-steps", "3", "--speculative-eagle-topk", "1"]
    assert words(out)[-8:] == ["--speculative-algorithm", *drafting, "--speculative-num-draft-tokens", "4"]
    _, out, _ = run("fit", "deepseek-ai/DeepSeek-V3", *asked[:4], "8xh200", *asked[5:])
    assert words(out)[-2:] == ["--speculative-algorithm", "EAGLE"]


def test_weights_left_on_the_host_in_gib() -> None:
    # 7.5 GiB are 8,053,063,680 bytes; vLLM's flag takes a number of GiB, and nothing is said where nothing is moved
    found = words(emit("vllm", launch(engine="vllm", cpu_offload_bytes=8_053_063_680)))
    assert found[found.index("--cpu-offload-gb") + 1] == "7.5"
    assert "--cpu-offload-gb" not in words(emit("vllm", launch(engine="vllm")))


def test_a_pool_in_blocks_replaces_the_share() -> None:
    found = words(emit("vllm", launch(engine="vllm", num_gpu_blocks=600, utilization=0.9)))
    assert found[found.index("--num-gpu-blocks-override") + 1] == "600"
    assert "--gpu-memory-utilization" not in found


def _adapter(place: Path, rank: int) -> str:
    """A LoRA adapter of one matrix of Llama 3 8B."""
    place.mkdir()
    (place / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"]})
    )
    stem, size = "base_model.model.model.layers.0.self_attn.q_proj.lora", rank * 4096 * 2
    shapes = {f"{stem}_A.weight": [rank, 4096], f"{stem}_B.weight": [4096, rank]}
    header = json.dumps(
        {
            name: {"dtype": "BF16", "shape": shape, "data_offsets": [at * size, at * size + size]}
            for at, (name, shape) in enumerate(shapes.items())
        }
    ).encode()
    with (place / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    return str(place)


def test_vllm_is_told_a_rank_beyond_its_own(run: Run, tmp_path: Path) -> None:
    """vLLM 0.33 keeps room for rank 16 and refuses a higher one; ranks that it knows are 1, 8, 16, 32, 64 … SGLang looks at the
    adapter."""
    for rank, told in ((8, None), (16, None), (24, "32"), (64, "64")):
        place = _adapter(tmp_path / str(rank), rank)
        for kind in ("vllm", "sglang"):
            asked = f"fit meta-llama/Meta-Llama-3-8B --gpu h100 --lora {place} --emit {kind} --offline"
            status, out, _ = run(*asked.split())
            said = words(out)
            assert status == 0 and f"adapter={place}" in said
            expected = told if kind == "vllm" else None
            found = said[said.index("--max-lora-rank") + 1] if "--max-lora-rank" in said else None
            assert found == expected, (kind, rank)


NEMOTRON = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"


def test_states_need_as_many_blocks_as_vllm_captures_sequences(run: Run) -> None:
    """`resolve_cudagraph_mode_and_sizes` of vLLM 0.33 raises where `max_num_seqs` exceeds the blocks of a model with recurrent
    layers and full graphs are captured. 59 GiB of Nemotron 3 Nano leave an H100, where the default is 1,024, fewer blocks."""
    asked = f"fit {NEMOTRON} --gpu h100 --ctx 8k --offline"

    def told(*more: str) -> tuple[int, list[str]]:
        found = json.loads(run(*asked.split(), *more, "--json")[1])
        return found["engine_pool"]["num_pages"], [warning["code"] for warning in found["warnings"]]

    blocks, codes = told()
    assert blocks < 1024 and "max_num_seqs_exceeds_blocks" in codes
    assert "max_num_seqs_exceeds_blocks" not in told("--enforce-eager")[1]
    assert "max_num_seqs_exceeds_blocks" not in told("--max-num-seqs", str(blocks), "--batch", "1")[1]
    assert "max_num_seqs_exceeds_blocks" not in told("--engine", "sglang")[1]
    assert "max_num_seqs_exceeds_blocks" in told("--max-num-seqs", "1000", "--batch", "1")[1]
    # steps of 512 tokens: no more sequences than that by default (`_set_default_max_num_seqs_and_batched_tokens_args`)
    assert "max_num_seqs_exceeds_blocks" not in told("--max-num-batched-tokens", "512")[1]
    said = words(run(*asked.split(), "--emit", "vllm")[1])
    assert said[said.index("--max-num-seqs") + 1] == str(blocks)
    plain = words(run(*asked.replace(NEMOTRON, "meta-llama/Meta-Llama-3-8B").split(), "--emit", "vllm")[1])
    assert "--max-num-seqs" not in plain


def test_what_is_launched_is_what_was_weighed(run: Run) -> None:
    """The flags of the command, given back, are the configuration that it was printed for: room for as many sequences."""
    asked = "fit Qwen/Qwen3-8B --gpu 4090 --ctx 8k --batch 3 --utilization 0.85 --kv-dtype fp8 --offline"
    said = words(run(*asked.split(), "--emit", "vllm")[1])
    flags = said[said.index("--max-model-len") :]
    again = json.loads(run("fit", "Qwen/Qwen3-8B", "--gpu", "4090", *flags, "--json", "--offline")[1])
    told = json.loads(run(*asked.split(), "--max-num-seqs", "3", "--json")[1])
    for key in ("fit", "per_rank", "engine_pool", "kv_cache"):
        assert again[key] == told[key]
