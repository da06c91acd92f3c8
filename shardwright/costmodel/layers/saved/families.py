"""How transformers writes the layer of each family, where that decides what autograd saves.

Read in transformers 5, models/<family>/modeling_<family>.py. A family without an entry is written like Llama. Experts are
those of integrations/moe.py, in grouped matmuls. Qwen's routers are counted without `norm_topk_prob`, which keeps a few bytes
for each chosen expert of a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shardwright.specs.model import Block


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What a router and its experts keep, beside their matmuls' inputs and outputs.

    Attributes:
        fp32: the router multiplies fp32 copies of its input and its weight.
        expert_bytes: for each expert of a token: its probability in fp32, or a mask.
        choice_bytes: for each chosen expert of a token: the fp32 weight before it is normalised.
        token_bytes: for each token: the fp32 sum by which weights are normalised.
        fp32_weights: experts' outputs are multiplied by fp32 weights; otherwise by weights in the compute format.
        keeps_choices: the softmax runs over the chosen experts only, and its result in the compute format is kept.
        shared_last: shared experts run after the others, and nothing reads their output but a sum.
    """

    fp32: bool = False
    expert_bytes: float = 4.0
    choice_bytes: float = 0.0
    token_bytes: float = 0.0
    fp32_weights: bool = False
    keeps_choices: bool = False
    shared_last: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerCode:
    """The code of one family's layer.

    Attributes:
        weighs_in_fp32: an RMS norm multiplies by its weight before it casts back, and keeps that input in fp32.
        adds_one: an RMS norm multiplies by 1 + weight, a new fp32 tensor.
        widens_weight: an RMS norm multiplies by a copy of its weight in fp32.
        joined_projection: queries, keys and values are views of one matmul's output.
        rotates: rotated queries and keys are new tensors. (Falcon's variants with ALiBi are counted as if they rotated.)
        joins_rotated: rotated and other elements of a head are concatenated. The result lies in the order of heads; so
            does the output of a flash kernel, which is copied for the output projection.
        rotary_tables: rotary tables that a layer lays out anew, in widths of a head: sine and cosine of as many elements. 0: all
            layers share them.
        fp32_tables: those are in fp32, otherwise in the compute format.
        repeats_heads: keys and values are copied for each query head before attention.
        compute_softmax: unfused attention computes its softmax in the compute format; otherwise in fp32 with a cast.
        caps_scores: unfused attention passes its scores through tanh.
        caps_logits: logits of the head pass through tanh.
        sinks: the softmax has one more column, whose maximum was subtracted.
        routing: of experts.
    """

    weighs_in_fp32: bool = False
    adds_one: bool = False
    widens_weight: bool = False
    joined_projection: bool = False
    rotates: bool = True
    joins_rotated: bool = False
    rotary_tables: float = 0.0
    fp32_tables: bool = False
    repeats_heads: bool = False
    compute_softmax: bool = False
    caps_scores: bool = False
    caps_logits: bool = False
    sinks: bool = False
    routing: Routing = Routing()


_GEMMA = LayerCode(weighs_in_fp32=True, adds_one=True)
_DEEPSEEK = LayerCode(joins_rotated=True, routing=Routing(fp32=True, fp32_weights=True, shared_last=True))
_NORMALISED = Routing(choice_bytes=4.0, token_bytes=4.0, fp32_weights=True)
_NORMALISED_DEEPSEEK = replace(_NORMALISED, fp32=True, expert_bytes=5.0, shared_last=True)

_FAMILIES: Mapping[str, LayerCode] = {
    "bamba": LayerCode(joins_rotated=True),
    "bloom": LayerCode(joined_projection=True, rotates=False),
    "cohere": LayerCode(),
    "cohere2": LayerCode(),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": replace(_DEEPSEEK, routing=_NORMALISED_DEEPSEEK),
    "falcon": LayerCode(compute_softmax=True),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, caps_scores=True, caps_logits=True),
    "gemma3_text": _GEMMA,
    "ernie4_5": LayerCode(rotary_tables=2.0, fp32_tables=True),
    "ernie4_5_moe": LayerCode(
        rotary_tables=2.0,
        fp32_tables=True,
        routing=replace(_NORMALISED, fp32=True, token_bytes=8.0, fp32_weights=False),
    ),
    "glm4": LayerCode(joins_rotated=True, rotary_tables=1.0),
    "glm4_moe": LayerCode(joins_rotated=True, routing=_NORMALISED_DEEPSEEK),
    "gpt2": LayerCode(joined_projection=True, rotates=False, compute_softmax=True),
    "gpt_neox": LayerCode(joined_projection=True, joins_rotated=True),
    "gpt_oss": LayerCode(
        weighs_in_fp32=True,
        joins_rotated=True,
        compute_softmax=True,
        sinks=True,
        routing=Routing(expert_bytes=0.0, choice_bytes=8.0, keeps_choices=True),
    ),
    "longcat_flash": _DEEPSEEK,
    "minimax": LayerCode(routing=_NORMALISED),
    "minimax_m2": LayerCode(joins_rotated=True, routing=_NORMALISED),
    "mixtral": LayerCode(routing=_NORMALISED),
    "mpt": LayerCode(joined_projection=True, rotates=False),
    "nemotron_h": LayerCode(
        weighs_in_fp32=True,
        widens_weight=True,
        rotates=False,
        routing=_NORMALISED_DEEPSEEK,
    ),
    "olmo2": LayerCode(weighs_in_fp32=True),
    "olmo3": LayerCode(weighs_in_fp32=True),
    "phi": LayerCode(joins_rotated=True),
    "qwen3_next": replace(_GEMMA, joins_rotated=True),
    "phimoe": LayerCode(routing=Routing(expert_bytes=6.0, token_bytes=20.0)),  # masks of Phi's sparse mixer
    "phi3": LayerCode(joined_projection=True, joins_rotated=True),
}


def layer_code(family: str, block: Block) -> LayerCode:
    """Return how transformers writes a `block` of the model type `family`.

    Falcon cuts its joined projection in three ways (modeling_falcon.py, _split_heads): as views where each query head has
    its own key, as copies of a single key, and as copies for each query head in between.
    """
    code = _FAMILIES.get(family, LayerCode())
    if family != "falcon":
        return code
    heads, keys = block.attention.heads, block.attention.kv_heads
    return replace(code, joined_projection=keys == heads, repeats_heads=1 < keys < heads)
