"""What drafts on a rank: by hand from the shapes, and the settings that vLLM gives its draft worker."""

from __future__ import annotations

from typing import Any

from hfmem.memory.drafts import Drafter, drafting, weights_with
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

HIDDEN, VOCAB, EXPERTS, WIDTH = 256, 1024, 16, 128
CONFIG = {
    "model_type": "deepseek_v3",
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "vocab_size": VOCAB,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": WIDTH,
    "n_group": 1,
    "topk_group": 1,
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
}


def test_prediction_layers_are_split_like_the_model() -> None:
    arch = read_architecture(CONFIG)
    # whole on every rank: eh_proj (`nn.Linear` in vLLM's deepseek_mtp.py), the router, both down-projections, and the norms:
    # enorm, hnorm, the head's, the block's two, and those of the two latents
    whole = HIDDEN * 2 * HIDDEN + EXPERTS * HIDDEN + (64 + 32 + 8) * HIDDEN + 5 * HIDDEN + 64 + 32
    heads = 8 * (16 + 8) * 64 + 8 * (16 + 16) * 32 + HIDDEN * 8 * 16
    split = heads + 3 * HIDDEN * WIDTH * (EXPERTS + 1)
    tables = 2 * VOCAB * HIDDEN  # the copies of embedding and head, which the target's stand in for
    groups = synthesise(arch)
    own = Drafter(arch, (), own=True)

    def more(**settings: Any) -> int:
        """Bytes of a rank of the last stage that the model has not without its prediction layer."""
        serving = Serving(512, **settings)
        drafts = weights_with(arch, groups, own, serving).stage_bytes[-1]
        return drafts - rank_weights(arch, groups, serving).stage_bytes[-1]

    for tp in (1, 2, 4):
        for pp in (1, 2):
            assert more(tp=tp, pp=pp) == 2 * (whole + split // tp), (tp, pp)
    assert more(engine="transformers") == 2 * (whole + split + tables)


def test_a_draft_runs_on_one_stage_with_the_ranks_of_its_target() -> None:
    dense = read_architecture({**CONFIG, "n_routed_experts": None, "first_k_dense_replace": 3})
    target = Serving(512, tp=4, pp=2, ep=True, kv_memory_bytes=1 << 30)
    for draft, experts in ((read_architecture(CONFIG), True), (dense, False)):
        served = drafting(target, draft, "fp8")
        assert (served.tp, served.pp, served.ep, served.declared_kv_dtype) == (4, 1, experts, "fp8")
        assert served.kv_memory_bytes is None
    assert drafting(Serving(512, engine="llama.cpp", pp=2), dense, None).pp == 2
