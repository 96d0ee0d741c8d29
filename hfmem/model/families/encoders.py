"""Text encoders of BERT's build: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, MPNet, DistilBERT, DeBERTa 2 and 3, MRA.

Nothing is kept between tokens. What a file stores beside the encoder depends on the class it was saved from (`architectures`): the
base model's names have no prefix and it has a pooler; task models put the encoder under the family's name and add a head.

Source: transformers 5.23.0 `models/{bert,roberta,…}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, full, read_dims
from hfmem.model.config import Config
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Layer, NoCache
from hfmem.records import dataclass

TASKS = {
    "Model": "model",
    "ForMaskedLM": "mlm",
    "ForPreTraining": "pretraining",
    "LMHeadModel": "causal",
    "ForCausalLM": "causal",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "qa",
    "ForMultipleChoice": "choice",
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one member from another.

    `poolers`: tasks that keep the pooler inside the encoder. `head`: how the masked-LM head is named. `two_layer`: the sequence
    classifier is a dense layer and an output layer. `extra_positions`: rows beyond `max_position_embeddings`.
    """

    base: str
    poolers: frozenset[str]
    head: str  # "cls" | "lm_head" | "generator"
    two_layer: bool = False
    extra_positions: int = 0
    token_types: bool = True


_POOLED = frozenset({"model", "pretraining", "sequence", "choice"})
_ROBERTA = Traits("roberta", frozenset({"model", "choice"}), "lm_head", two_layer=True)
TRAITS = {
    "bert": Traits("bert", _POOLED, "cls"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Traits("electra", frozenset(), "generator", two_layer=True),
    "mpnet": Traits("mpnet", frozenset({"model", "choice"}), "lm_head", two_layer=True, token_types=False),
    "mra": Traits("mra", frozenset(), "cls", two_layer=True, extra_positions=2),
    "deberta-v2": Traits("deberta", frozenset(), "cls"),
}


def encoder_layers(count: int) -> list[Layer]:
    """Encoder layers: no cache."""
    return [Layer((NoCache("encoder"),), stack="encoder")] * count


def _projections(part: Part, hidden: int, names: tuple[str, str, str], out: str) -> None:
    for name in names:
        part.linear(name, hidden, hidden, Component.ATTENTION, COLUMN)
    part.linear(out, hidden, hidden, Component.ATTENTION, ROW)


def masked_lm(part: Part, style: str, vocab: int, width: int, hidden: int, embedded: str | None) -> None:
    """A masked-LM head: dense layer, norm, output layer whose weight is the embedding's (None: its own) and whose bias is the
    head's, stored once unless the weights are not tied either."""
    tied = embedded is not None
    other = part.at("", component=Component.LM_HEAD)
    if style == "generator":  # ELECTRA's generator
        other.linear("generator_predictions.dense", width, hidden)
        Part(part.inv).norm("generator_predictions.LayerNorm", width)
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
    at.linear(dense, hidden, hidden)
    Part(part.inv).norm(f"{prefix}{norm}", hidden)
    at.tensor("decoder.weight", (vocab, width), split=Vocab(), tied_to=embedded, optional=tied)
    at.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to=f"{prefix}bias" if tied else None, optional=tied)


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
    if cfg.model_type != "deberta-v2" or cfg.flag("position_biased_input", default=True):
        emb.tensor("position_embeddings.weight", (rows, width), split=Vocab())
    types = cfg.need_int("type_vocab_size") if traits.token_types else 0
    if types:
        emb.tensor("token_type_embeddings.weight", (types, width), split=Vocab())
    # old files hold the positions 0, 1, 2, … as integers
    emb.tensor("position_ids", (1, rows - traits.extra_positions), optional=True, buffer=True)


def _deberta(part: Part, cfg: Config, block: Part, hidden: int) -> None:
    """DeBERTa's relative positions: an embedding shared by all layers, projections of it unless q's and k's are reused, and the
    first version-2 models' convolution."""
    if cfg.flag("relative_attention", default=False):
        buckets = cfg.lookup("position_buckets")
        reach = cfg.lookup("max_relative_positions")
        if isinstance(buckets, int) and buckets > 0:
            rows = 2 * buckets
        elif isinstance(reach, int) and reach > 0:
            rows = 2 * reach
        else:
            rows = 2 * cfg.positive("max_position_embeddings")
        part.tensor("encoder.rel_embeddings.weight", (rows, hidden), Component.EMBEDDING)
        kinds = cfg.lookup("pos_att_type") or ""
        kinds = kinds if isinstance(kinds, list) else str(kinds).split("|")
        if not cfg.flag("share_att_key", default=False):
            for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
                if kind in kinds:
                    block.linear(f"attention.self.{name}", hidden, hidden, Component.ATTENTION, COLUMN)
    if "layer_norm" in (cfg.opt_str("norm_rel_ebd") or "none").lower().split("|"):
        part.norm("encoder.LayerNorm", hidden)
    kernel = cfg.opt_int("conv_kernel_size") or 0
    if kernel:
        groups = cfg.opt_int("conv_groups") or 1
        part.conv("encoder.conv.conv", hidden, hidden // groups, (kernel,), Component.ATTENTION)
        part.norm("encoder.conv.LayerNorm", hidden)


def cross_attention(block: Part, hidden: int, features: int) -> None:
    """Attention over another model's output of `features` wide rows, with its norm."""
    at = block.at("crossattention.", component=Component.ATTENTION)
    at.linear("self.query", hidden, hidden, split=COLUMN)
    for name in ("key", "value"):
        at.linear(f"self.{name}", hidden, features, split=COLUMN)
    at.linear("output.dense", hidden, hidden, split=ROW)
    block.norm("crossattention.output.LayerNorm", hidden)


def _blocks(cfg: Config, part: Part, d: Dims, intermediate: int) -> Part:
    """The blocks, after-norm with biases everywhere, under `encoder.layer.{}.`."""
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    if cfg.model_type == "mpnet":
        _projections(block.at("attention.attn."), d.hidden, ("q", "k", "v"), "o")
        block.norm("attention.LayerNorm", d.hidden)
        rows = cfg.positive("relative_attention_num_buckets")
        part.tensor("encoder.relative_attention_bias.weight", (rows, d.num_heads), Component.ATTENTION)
    else:
        names = ("query", "key", "value")
        if cfg.model_type == "deberta-v2":
            names = ("query_proj", "key_proj", "value_proj")
        at = block.at("attention.")
        _projections(at, d.hidden, (f"self.{names[0]}", f"self.{names[1]}", f"self.{names[2]}"), "output.dense")
        block.norm("attention.output.LayerNorm", d.hidden)
    block.linear("intermediate.dense", intermediate, d.hidden, Component.MLP, COLUMN)
    block.linear("output.dense", d.hidden, intermediate, Component.MLP, ROW)
    block.norm("output.LayerNorm", d.hidden)
    return block


def body(part: Part, cfg: Config, d: Dims, *, base: str = "bert") -> Part:
    """Embeddings and blocks of `base`'s shape below `part`, for models that hold such an encoder. Returns the blocks."""
    vocab = cfg.positive("vocab_size")
    _embeddings(part, cfg, TRAITS[base], vocab, d.hidden)
    part.norm("embeddings.LayerNorm", d.hidden)
    return _blocks(cfg, part, d, cfg.positive("intermediate_size"))


def bert(cfg: Config) -> Architecture:
    """BERT and the encoders that keep its block; a decoder of that shape (`is_decoder`) keeps keys and values."""
    traits = TRAITS[cfg.model_type]
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    vocab, intermediate = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    factored = cfg.model_type in ("electra", "deberta-v2")
    width = (cfg.opt_int("embedding_size") or d.hidden) if factored else d.hidden
    inv = Inventory()
    part = Part(inv, "" if what == "model" else f"{traits.base}.")
    _embeddings(part, cfg, traits, vocab, width)
    deberta = cfg.model_type == "deberta-v2"
    part.norm("embeddings.LayerNorm", d.hidden if deberta else width)
    if width != d.hidden:
        name = "embeddings.embed_proj" if deberta else "embeddings_project"
        part.linear(name, d.hidden, width, Component.EMBEDDING, bias=not deberta)
    block = _blocks(cfg, part, d, intermediate)
    if deberta:
        _deberta(part, cfg, block, d.hidden)
    if cfg.flag("add_cross_attention", default=False):
        cross_attention(block, d.hidden, d.hidden)
    if what in traits.poolers:
        part.linear("pooler.dense", d.hidden, d.hidden, Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    embedded = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
    _task_head(cfg, traits, what, Part(inv), d.hidden, width, vocab, embedded)
    decodes = what == "causal" and cfg.flag("is_decoder", default=False)
    layers = [Layer((full(d),))] * d.num_layers if decodes else encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=tied, intermediate=intermediate)


def _task_head(
    cfg: Config, traits: Traits, what: str, top: Part, hidden: int, width: int, vocab: int, embedded: str | None
) -> None:
    other = top.at("", component=Component.OTHER)
    if what in ("mlm", "pretraining", "causal") and not (what == "pretraining" and cfg.model_type == "electra"):
        masked_lm(top, traits.head, vocab, width, hidden, embedded)
        if what == "pretraining":
            other.linear("cls.seq_relationship", 2, hidden)
    elif what == "pretraining":  # ELECTRA's discriminator
        other.linear("discriminator_predictions.dense", hidden, hidden)
        other.linear("discriminator_predictions.dense_prediction", 1, hidden)
    elif what == "sequence":
        if cfg.model_type == "deberta-v2":
            pooled = cfg.opt_int("pooler_hidden_size") or hidden
            other.linear("pooler.dense", pooled, pooled)
        classifier(top, hidden, num_labels(cfg), two_layer=traits.two_layer)
    elif what == "choice":
        if cfg.model_type == "deberta-v2":
            other.linear("pooler.dense", hidden, hidden)
        elif cfg.model_type == "electra":
            other.linear("sequence_summary.summary", hidden, hidden)
        elif cfg.model_type == "mra":
            other.linear("pre_classifier", hidden, hidden)
        classifier(top, hidden, 1, two_layer=False)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), hidden)
