"""Which architectures of llama.cpp keep what: names of `general.architecture`, and windows that no key of the file gives.

Read from ggml-org/llama.cpp as stored in November 2026: `llama-arch.cpp` (names), each model's `load_arch_hparams` (window
patterns, recurrent layers, latent attention) and `create_memory` (models without a cache). An architecture that is in none of these
tables is refused by its name.
"""

from __future__ import annotations

from typing import Final

from hfmem.records import dataclass


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers slide: of every `period`, all but the last (`dense_first`: all but the first); 0: all of them.

    `sliding_window_pattern` in the file comes first, as an array of flags or another period. `window` is what the loader
    takes where the file does not say; `required`: without a window the file is not one of this architecture; `only_layers`: the
    windows are those of models of this depth.
    """

    period: int | None
    dense_first: bool = False
    window: int | None = None
    required: bool = True
    chunked: bool = False
    only_layers: int | None = None
    fixed: bool = False


#: keys and values of every token in every layer that has heads
FULL: Final = _names(
    "llama llama-embed mistral3 deci arcee minicpm minicpm3 grok falcon baichuan starcoder refact bloom mpt stablelm qwen qwen2 "
    "qwen2vl qwen2moe qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo gpt2 gptj gptneox codeshell orion internlm2 gemma "
    "starcoder2 xverse command-r dbrx olmo olmoe openelm arctic deepseek deepseek2-ocr chatglm glm4 glm4moe bitnet jais jais2 "
    "nemotron exaone granite granitemoe chameleon bailingmoe bailingmoe2 dots1 ernie4_5 ernie4_5-moe paddleocr hunyuan-moe "
    "hunyuan-dense hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded maincoder talkie plm "
    "hrm_text qwen3tts nanbeige pockettts"
)

#: a window in some layers
WINDOWED: Final[dict[str, Windows]] = {
    "afmoe": Windows(4, required=False),
    "cohere2": Windows(4),
    "cohere2moe": Windows(4, dense_first=True),
    "exaone-moe": Windows(4, window=128),
    "exaone4": Windows(4, window=4096, only_layers=64),
    "gemma2": Windows(2, window=4096),
    "gemma3": Windows(6, required=False),
    "gemma3n": Windows(5),
    "gemma4": Windows(None),
    "gpt-oss": Windows(2),
    "granite_swa": Windows(None),
    "laguna": Windows(4, dense_first=True, required=False),
    "llama4": Windows(4, window=8192, chunked=True, fixed=True),
    "maple": Windows(None),
    "mellum": Windows(4, required=False),
    "mimo2": Windows(None),
    "muse-glimmer": Windows(4),
    "olmo2": Windows(4, required=False),
    "plamo3": Windows(8, required=False),
    "smallthinker": Windows(4, dense_first=True, window=4096, required=False, fixed=True),
    "spark2_5": Windows(None),
    "step35": Windows(None),
}

#: latent attention where the file has the keys of its compressed form
LATENT: Final = _names("deepseek2 mistral4 deepseek32 glm-dsa hy_v4")

#: a window of shared key-value rows and compressed rows of the whole context
COMPRESSED: Final = _names("deepseek4")

MAMBA1: Final = _names("mamba")
MAMBA2: Final = _names("mamba2")
RWKV: Final = _names("rwkv6 rwkv6qwen2 rwkv7 arwkv7")
#: state-space layers where a layer has no KV heads
HYBRID_MAMBA1: Final = _names("jamba")
HYBRID_MAMBA2: Final = _names("plamo2 granitehybrid nemotron_h nemotron_h_moe")
#: attention and a state side by side in every layer
PARALLEL_MAMBA2: Final = _names("falcon-h1")
SHORT_CONV: Final = _names("lfm2 lfm2moe")
DELTA_NET: Final = _names("qwen3next qwen35 qwen35moe")
#: lightning attention in all but every eighth layer
LIGHTNING: Final = _names("minimax-01")
#: keys and values of every token, and an indexer's key
INDEXED: Final = _names("minimax-m3")
#: Kimi delta attention where a layer has no KV heads, latent attention elsewhere
KIMI_DELTA: Final = _names("kimi-linear kimi-k3 bailingmoe3")

#: nothing is kept between tokens: encoders, and language models that generate by diffusion
WITHOUT_CACHE: Final = _names(
    "bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 modern-bert eurobert gemma-embedding t5encoder "
    "wavtokenizer-dec dream llada llada-moe rnd1"
)

#: architectures that llama.cpp has and whose cache no rule here gives yet
NOT_YET: Final = _names("qwen4exp glm5-next dots3note clip eagle3 dflash gemma4-assistant graniteswitch")

KNOWN: Final = (
    FULL
    | set(WINDOWED)
    | LATENT
    | COMPRESSED
    | MAMBA1
    | MAMBA2
    | RWKV
    | HYBRID_MAMBA1
    | HYBRID_MAMBA2
    | PARALLEL_MAMBA2
    | SHORT_CONV
    | DELTA_NET
    | KIMI_DELTA
    | LIGHTNING
    | INDEXED
    | WITHOUT_CACHE
    | {"t5"}
)
