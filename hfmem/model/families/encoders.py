"""Text encoders of BERT's build: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, MPNet, DeBERTa, ESM, Longformer and kin.

Nothing is kept between tokens, unless the config makes a decoder of one (`is_decoder`). What a file stores beside the encoder
depends on the class it was saved from (`architectures`): the base model's names have no prefix and it has a pooler; task models put
the encoder under the family's name and add a head.

Source: transformers 5.23.0 `models/{bert,roberta,…}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, full, read_dims
from hfmem.model.config import Config
from hfmem.model.families.encoder_extras import EXTRAS, OWN_ATTENTION, widened_head
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Layer, NoCache
from hfmem.records import dataclass, replace

TASKS = {
    "Model": "model",
    "ForMaskedLM": "mlm",
    "ForPreTraining": "pretraining",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "qa",
    "ForMultipleChoice": "choice",
}


#: the classes of BERT's own kin: the same, and decoders
_TASKS = TASKS | {
    "ForNextSentencePrediction": "next",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "GenerationDecoder": "causal",
    "GenerationEncoder": "model",
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one member from another.

    `poolers`: tasks that keep the pooler inside the encoder. `head`: how the masked-LM head is named. `two_layer`: the sequence
    classifier is a dense layer and an output layer. `extra_positions`: rows beyond `max_position_embeddings`. `norms`: the two of a
    block; `last`: one after all blocks. `choice`: a square layer before the multiple-choice classifier.
    """

    base: str
    poolers: frozenset[str]
    head: str  # "cls" | "lm_head" | "generator" | "bare" | "one_bias" | "widened"
    two_layer: bool = False
    extra_positions: int = 0
    token_types: bool = True
    positions: bool = True
    embedding_norm: bool = True
    norms: tuple[str, str] = ("attention.output.LayerNorm", "output.LayerNorm")
    last: str | None = None
    pooler: str = "pooler.dense"
    choice: str | None = None


_POOLED = frozenset({"model", "pretraining", "sequence", "choice", "next"})
_EVERY = frozenset(_TASKS.values())
_ROBERTA = Traits("roberta", frozenset({"model", "choice"}), "lm_head", two_layer=True)
_MRA = Traits("mra", frozenset(), "cls", two_layer=True, extra_positions=2, choice="pre_classifier")
_INNER = ("attention.LayerNorm", "LayerNorm")
TRAITS = {
    "bert": Traits("bert", _POOLED, "cls"),
    "ernie": Traits("ernie", _POOLED, "cls"),
    "megatron-bert": Traits(
        "bert", _POOLED, "cls", embedding_norm=False, norms=("attention.ln", "ln"), last="encoder.ln"
    ),
    "big_bird": Traits("bert", _EVERY - {"qa"}, "cls", two_layer=True, pooler="pooler"),
    "layoutlm": Traits("layoutlm", _EVERY, "cls"),
    "rembert": Traits("rembert", _POOLED, "widened"),
    "roc_bert": Traits("roc_bert", _POOLED, "cls"),
    "roformer": Traits("roformer", frozenset(), "cls", two_layer=True, positions=False),
    "bert-generation": Traits("bert", frozenset(), "bare", token_types=False),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xmod": _ROBERTA,
    "data2vec-text": replace(_ROBERTA, base="data2vec_text"),
    "ibert": replace(_ROBERTA, base="ibert"),
    "longformer": replace(_ROBERTA, base="longformer"),
    "roberta-prelayernorm": replace(
        _ROBERTA,
        base="roberta_prelayernorm",
        norms=("attention.LayerNorm", "intermediate.LayerNorm"),
        last="LayerNorm",
    ),
    "xlm-roberta-xl": replace(
        _ROBERTA,
        embedding_norm=False,
        norms=("attention.self_attn_layer_norm", "LayerNorm"),
        last="encoder.LayerNorm",
    ),
    "esm": Traits(
        "esm",
        frozenset({"model"}),
        "one_bias",
        two_layer=True,
        token_types=False,
        norms=_INNER,
        last="encoder.emb_layer_norm_after",
    ),
    "electra": Traits("electra", frozenset(), "generator", two_layer=True, choice="sequence_summary.summary"),
    "convbert": Traits("convbert", frozenset(), "generator", two_layer=True),
    "mpnet": Traits("mpnet", frozenset({"model", "choice"}), "lm_head", two_layer=True, token_types=False),
    "mra": _MRA,
    "nystromformer": replace(_MRA, base="nystromformer"),
    "yoso": replace(_MRA, base="yoso"),
    "deberta": Traits("deberta", frozenset(), "cls"),
    "deberta-v2": Traits("deberta", frozenset(), "cls", choice="pooler.dense"),
}
_DEBERTA = frozenset({"deberta", "deberta-v2"})
#: embeddings may be narrower than the model
_FACTORED = _DEBERTA | {"electra", "convbert", "roformer"}


def encoder_layers(count: int) -> list[Layer]:
    """Encoder layers: no cache."""
    return [Layer((NoCache("encoder"),), stack="encoder")] * count


def _projections(part: Part, hidden: int, names: tuple[str, str, str], out: str, *, bias: bool = True) -> None:
    for name in names:
        part.linear(name, hidden, hidden, Component.ATTENTION, COLUMN, bias=bias)
    part.linear(out, hidden, hidden, Component.ATTENTION, ROW)


def masked_lm(part: Part, style: str, vocab: int, width: int, hidden: int, embedded: str | None) -> None:
    """A masked-LM head: dense layer, norm, output layer whose weight is the embedding's (None: its own) and whose bias is the
    head's, stored once unless the weights are not tied either."""
    tied = embedded is not None
    other = part.at("", component=Component.LM_HEAD)
    if style == "generator":  # ELECTRA's generator
        other.linear("generator_predictions.dense", width, hidden)
        Part(part.inv, part.prefix).norm("generator_predictions.LayerNorm", width)
        other.tensor("generator_lm_head.weight", (vocab, width), split=Vocab(), tied_to=embedded, optional=tied)
        other.tensor("generator_lm_head.bias", (vocab,), split=Vocab())
        return
    prefix, dense, norm = (
        ("cls.predictions.", "transform.dense", "transform.LayerNorm")
        if style == "cls"
        else ("lm_head.", "dense", "layer_norm")
    )
    at = other.at(prefix)
    at.tensor("bias", (vocab,), split=Vocab())
    if style != "bare":
        at.linear(dense, width, hidden)
        Part(part.inv, part.prefix).norm(f"{prefix}{norm}", width)
    at.tensor("decoder.weight", (vocab, width), split=Vocab(), tied_to=embedded, optional=tied)
    if style == "one_bias":
        return
    own = f"{at.prefix}bias" if tied else None
    at.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to=own, optional=tied)


def classifier(part: Part, hidden: int, labels: int, *, two_layer: bool) -> None:
    """A classification head: one linear layer, or a square one before it."""
    at = part.at("classifier", component=Component.OTHER)
    if two_layer:
        at.linear(".dense", hidden, hidden)
        at.linear(".out_proj", labels, hidden)
    else:
        at.linear("", labels, hidden)


def _embeddings(part: Part, cfg: Config, traits: Traits, vocab: int, width: int) -> None:
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, width), split=Vocab())
    rows = cfg.positive("max_position_embeddings") + traits.extra_positions
    if has_positions(cfg, traits):
        emb.tensor("position_embeddings.weight", (rows, width), split=Vocab())
    types = cfg.need_int("type_vocab_size") if traits.token_types else 0
    if types:
        emb.tensor("token_type_embeddings.weight", (types, width), split=Vocab())
    # old files hold the positions 0, 1, 2, … as integers
    emb.tensor("position_ids", (1, rows - traits.extra_positions), optional=True, buffer=True)


def has_positions(cfg: Config, traits: Traits) -> bool:
    """Whether positions are learned: not where DeBERTa's or ESM's are relative or rotary."""
    if cfg.model_type in _DEBERTA:
        return cfg.flag("position_biased_input", default=True)
    if cfg.model_type == "esm":
        return (cfg.opt_str("position_embedding_type") or "absolute") == "absolute"
    return traits.positions


def _attention(block: Part, name: str, hidden: int, norm: str, *, bias: bool) -> None:
    at = block.at(f"{name}.")
    _projections(at, hidden, ("self.query", "self.key", "self.value"), "output.dense", bias=bias)
    block.norm(norm, hidden)


def cross_attention(block: Part, hidden: int, features: int) -> None:
    """Attention over another model's output of `features` wide rows, with its norm."""
    at = block.at("crossattention.", component=Component.ATTENTION)
    at.linear("self.query", hidden, hidden, split=COLUMN)
    for name in ("key", "value"):
        at.linear(f"self.{name}", hidden, features, split=COLUMN)
    at.linear("output.dense", hidden, hidden, split=ROW)
    block.norm("crossattention.output.LayerNorm", hidden)


def _blocks(cfg: Config, part: Part, traits: Traits, d: Dims, intermediate: int, *, cross: bool) -> Part:
    """The blocks, with biases everywhere, under `encoder.layer.{}.`."""
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    bias = cfg.model_type != "big_bird" or cfg.flag("use_bias", default=True)
    if cfg.model_type == "mpnet":
        _projections(block.at("attention.attn."), d.hidden, ("q", "k", "v"), "o")
        block.norm("attention.LayerNorm", d.hidden)
        rows = cfg.positive("relative_attention_num_buckets")
        part.tensor("encoder.relative_attention_bias.weight", (rows, d.num_heads), Component.ATTENTION)
    elif cfg.model_type in OWN_ATTENTION:
        block.linear("attention.output.dense", d.hidden, d.hidden, Component.ATTENTION, ROW)
        block.norm("attention.output.LayerNorm", d.hidden)
    else:
        _attention(block, "attention", d.hidden, traits.norms[0], bias=bias)
    if cross:
        norm = traits.norms[0].replace("attention", "crossattention", 1)
        _attention(block, "crossattention", d.hidden, norm, bias=bias)
    if cfg.model_type != "convbert" or cfg.positive("num_groups") == 1:
        block.linear("intermediate.dense", intermediate, d.hidden, Component.MLP, COLUMN)
        block.linear("output.dense", d.hidden, intermediate, Component.MLP, ROW)
    block.norm(traits.norms[1], d.hidden)
    if traits.last:
        part.norm(traits.last, d.hidden)
    return block


def body(part: Part, cfg: Config, d: Dims, *, token_types: bool) -> Part:
    """BERT's embeddings and blocks below `part`, for models that hold such an encoder. Returns the blocks."""
    vocab = cfg.positive("vocab_size")
    traits = replace(TRAITS["bert"], token_types=token_types)
    _embeddings(part, cfg, traits, vocab, d.hidden)
    part.norm("embeddings.LayerNorm", d.hidden)
    return _blocks(cfg, part, traits, d, cfg.positive("intermediate_size"), cross=False)


def bert(cfg: Config) -> Architecture:
    """BERT and the encoders that keep its block."""
    traits = TRAITS[cfg.model_type]
    what = task(cfg, "model", _TASKS)
    d = read_dims(cfg)
    vocab, intermediate = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    width = (cfg.opt_int("embedding_size") or d.hidden) if cfg.model_type in _FACTORED else d.hidden
    if cfg.model_type == "rembert":
        width = cfg.positive("input_embedding_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else f"{traits.base}.")
    _embeddings(part, cfg, traits, vocab, width)
    deberta = cfg.model_type in _DEBERTA
    normed = cfg.flag("emb_layer_norm_before", default=False) if cfg.model_type == "esm" else traits.embedding_norm
    if normed:
        name = "embeddings.layer_norm" if cfg.model_type == "esm" else "embeddings.LayerNorm"
        part.norm(name, d.hidden if deberta else width)
    if width != d.hidden or cfg.model_type == "rembert":
        name = "embeddings.embed_proj" if deberta else "embeddings_project"
        name = "encoder.embedding_hidden_mapping_in" if cfg.model_type == "rembert" else name
        part.linear(name, d.hidden, width, Component.EMBEDDING, bias=not deberta)
    decoder = what == "causal" and cfg.flag("is_decoder", default=False)
    cross = cfg.flag("add_cross_attention", default=False)
    block = _blocks(cfg, part, traits, d, intermediate, cross=cross)
    if cfg.model_type in EXTRAS:
        EXTRAS[cfg.model_type](cfg, part, block, d)
    if what in traits.poolers:
        part.linear(traits.pooler, d.hidden, d.hidden, Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    embedded = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
    _task_head(cfg, traits, what, Part(inv), (d.hidden, width, vocab, intermediate), embedded)
    if cfg.model_type == "roberta" and what == "mlm":  # vLLM's class embeds (`roberta.py`, `RobertaEmbeddingModel`)
        inv.specs[:] = [replace(s, unread=True) if s.pattern.startswith("lm_head.") else s for s in inv.specs]
    # what attends over an encoder's output keeps that too: `encoder_decoder` adds it, which knows the encoder
    layers = [Layer((full(d),))] * d.num_layers if decoder else encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=tied, intermediate=intermediate)


def _task_head(
    cfg: Config, traits: Traits, what: str, top: Part, sizes: tuple[int, int, int, int], embedded: str | None
) -> None:
    hidden, width, vocab, intermediate = sizes
    other = top.at("", component=Component.OTHER)
    if what == "pretraining" and cfg.model_type == "electra":  # its discriminator
        other.linear("discriminator_predictions.dense", hidden, hidden)
        other.linear("discriminator_predictions.dense_prediction", 1, hidden)
    elif what in ("mlm", "pretraining", "causal"):
        if traits.head == "widened":
            widened_head(cfg, top, vocab, hidden)
        else:
            masked_lm(top, traits.head, vocab, width, hidden, embedded)
        if what == "pretraining" and cfg.model_type != "roc_bert":  # which contrasts instead
            other.linear("cls.seq_relationship", 2, hidden)
    elif what == "next":
        other.linear("cls.seq_relationship", 2, hidden)
    elif what == "sequence":
        if cfg.model_type in _DEBERTA:
            pooled = cfg.opt_int("pooler_hidden_size") or hidden
            other.linear("pooler.dense", pooled, pooled)
        classifier(top, hidden, num_labels(cfg), two_layer=traits.two_layer)
    elif what == "choice":
        if traits.choice:
            other.linear(traits.choice, hidden, hidden)
        classifier(top, hidden, 1, two_layer=False)
    elif what == "qa" and cfg.model_type == "big_bird":
        at = other.at("qa_classifier.")
        at.linear("intermediate.dense", intermediate, hidden)
        at.linear("output.dense", hidden, intermediate)
        at.norm("output.LayerNorm", hidden)
        at.linear("qa_outputs", num_labels(cfg), hidden)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), hidden)
