"""A config that names only its model_type is its class's default model.

Expected parameters were counted with transformers 5.23.0: each class built from its own defaults on the meta device, parameters
summed, shared storage once. They test the rules and the table of class defaults together.
"""

from __future__ import annotations

import pytest

from hfmem.model.families.registry import read_architecture

COUNTED = [
    ("afmoe", 19_232_600_000),
    ("apertus", 6_979_596_352),
    ("arcee", 4_022_766_080),
    ("beam", 501_267_599_808),
    ("biogpt", 346_763_264),
    ("bitnet", 2_741_155_840),
    ("bloom", 16_156_544),
    ("blt", 4_633_127_680),
    ("codegen", 6_050_882_784),
    ("cohere", 34_980_831_232),
    ("cohere2", 34_980_831_232),
    ("cohere2_moe", 190_004_928_512),
    ("cpmant", 9_517_453_312),
    ("ctrl", 1_637_964_550),
    ("cwm", 32_581_097_472),
    ("diffllama", 1_204_885_504),
    ("doge", 403_055_872),
    ("dots3_note_text", 279_551_718_016),
    ("ernie4_5", 360_748_032),
    ("ernie4_5_moe", 21_825_437_888),
    ("exaone4", 9_429_069_824),
    ("exaone_moe", 28_550_639_616),
    ("falcon", 6_921_720_704),
    ("flex_olmo", 33_270_665_216),
    ("flint", 39_785_287_456),
    ("gemma", 8_537_680_896),
    ("gemma2", 2_614_341_888),
    ("gemma3_text", 2_628_658_432),
    ("glm", 9_399_951_360),
    ("glm4", 9_400_279_040),
    ("glm4_moe", 103_481_200_640),
    ("gpt-sw3", 124_439_808),
    ("gpt2", 124_439_808),
    ("gpt_bigcode", 111_446_784),
    ("gpt_neo", 1_315_575_808),
    ("gpt_neox", 20_554_567_680),
    ("gpt_neox_japanese", 2_598_837_760),
    ("gpt_oss", 116_829_156_672),
    ("gptj", 6_050_882_784),
    ("granite", 6_738_415_616),
    ("granite_swa", 2_144_463_840),
    ("granitemoe", 37_039_116_288),
    ("granitemoe_swa", 37_039_117_312),
    ("granitemoeshared", 37_039_116_288),
    ("helium", 2_172_643_840),
    ("hrm_text", 1_447_822_848),
    ("hy_v3", 295_033_528_320),
    ("hyperclovax", 6_738_677_760),
    ("inkling2_text", 593_722_930_176),
    ("inkling_text", 975_340_270_146),
    ("internlm3", 8_804_241_408),
    ("iquestcoder", 39_794_283_520),
    ("jais2", 8_090_401_280),
    ("jetmoe", 4_293_888_000),
    ("kolibri1", 78_103_055_360),
    ("laguna", 33_189_975_808),
    ("llama", 6_738_415_616),
    ("mellum", 12_149_923_072),
    ("ministral3", 8_489_553_920),
    ("mistral", 7_241_732_096),
    ("mixtral", 46_702_792_704),
    ("modernbert-decoder", 149_655_232),
    ("mpt", 1_311_213_568),
    ("nanochat", 256_573_440),
    ("olmo", 6_888_095_744),
    ("olmo2", 6_888_624_128),
    ("olmo3", 6_888_624_128),
    ("olmoe", 13_361_612_800),
    ("openai-gpt", 116_534_784),
    ("opt", 125_239_296),
    ("persimmon", 9_397_175_296),
    ("phi", 1_418_270_720),
    ("phi3", 3_821_079_552),
    ("phimoe", 41_872_793_600),
    ("qwen2", 12_049_846_272),
    ("qwen2_moe", 14_315_784_192),
    ("qwen3", 12_049_461_248),
    ("qwen3_moe", 15_350_731_776),
    ("seed_oss", 28_921_040_896),
    ("smollm3", 3_075_098_624),
    ("solar_open", 102_651_793_408),
    ("stablelm", 2_795_443_200),
    ("starcoder2", 3_030_371_328),
    ("vaultgemma", 2_614_222_080),
    ("xglm", 564_463_616),
    ("xlstm", 6_865_424_896),
]


@pytest.mark.parametrize(("model_type", "parameters"), COUNTED, ids=[model_type for model_type, _ in COUNTED])
def test_class_defaults(model_type: str, parameters: int) -> None:
    arch = read_architecture({"model_type": model_type})
    mtp = sum(s.count * s.elements for s in arch.tensors if s.component == "mtp")  # which transformers does not build
    assert arch.expected_parameters() - mtp == parameters
    assert arch.class_defaults
