"""Signs in a config.json that it describes another model than its `model_type` alone.

Such a file would be read silently and planned with wrong parameters. The signs are a class without the LM head, and
keys of parts that the family does not have.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .layers import FULL, SLIDING
from .reader import ConfigReader, shown

# Endings of the classes that hold a language model in `text_config`.
_MULTIMODAL = ("ForConditionalGeneration", "ForCausalLM")


def check_class(config: ConfigReader, model_type: str, classes: Sequence[str]) -> None:
    """Refuse `architectures` that hold another class than `classes`, the causal language models of the family.

    Raises:
        SpecError: names the class; sequence classifiers, draft models and encoders are the usual ones.
    """
    known = {name.lower() for name in classes}
    for name in config.words("architectures") or ():
        if name.lower() not in known:
            raise config.error(
                f"'architectures' holds '{name}'; supported: {classes[0]} for model_type '{model_type}', and the text part "
                f"of a multimodal ...{_MULTIMODAL[0]}; name {classes[0]} if that is what will be trained"
            )


def check_multimodal_class(config: ConfigReader) -> None:
    """Refuse a multimodal configuration whose class has no LM head on its text part.

    Raises:
        SpecError: names the class.
    """
    for name in config.words("architectures") or ():
        if not name.endswith(_MULTIMODAL):
            raise config.error(
                f"'architectures' holds '{name}'; supported of a multimodal model: the text part of a class "
                f"...{_MULTIMODAL[0]}; name that class if it is what will be trained"
            )


class _Part(NamedTuple):
    """The part that a key adds to a model, and the values with which it adds nothing."""

    refusal: str
    nothing: tuple[object, ...] = (None, 0)


_OWN = "; give the model's own model_type, or remove the key if it has none"
_IF_SO = "; remove the key if it is one"
_EXPERTS = _Part("model_type '{model_type}' has no experts" + _OWN, (None, 0, 1))
_CAUSAL = "only causal decoders are supported" + _IF_SO
_ALONE = "only decoders without an encoder are supported" + _IF_SO
_DRAFT = "draft models of speculative decoding are not supported; remove the key if it is none"
_RECURRENT = "model_type '{model_type}' has no recurrent layers" + _OWN
_INDEXER = _Part("model_type '{model_type}' has no sparse attention" + _OWN)

_PARTS = {
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "moe_num_experts": _EXPERTS,
    "kv_lora_rank": _Part("model_type '{model_type}' has no latent attention" + _OWN),
    "index_topk": _INDEXER,
    "index_n_heads": _INDEXER,
    "mamba_d_state": _Part(_RECURRENT),
    "ssm_state_size": _Part(_RECURRENT),
    "linear_num_value_heads": _Part(_RECURRENT),
    "block_configs": _Part("model_type '{model_type}' has no layers of many shapes" + _OWN, (None, [])),
    "draft_vocab_size": _Part(_DRAFT),
    "medusa_num_heads": _Part(_DRAFT),
    "is_causal": _Part(_CAUSAL, (None, True)),
    "use_bidirectional_attention": _Part(_CAUSAL, (None, False)),
    "is_encoder_decoder": _Part(_ALONE, (None, False)),
    "add_cross_attention": _Part(_ALONE, (None, False)),
}


def check_foreign_keys(config: ConfigReader, model_type: str) -> None:
    """Refuse keys that add a part to the model and that the family's reader did not read.

    That reader must run first.

    Raises:
        SpecError: names the first such key.
    """
    for key, part in _PARTS.items():
        value = config.config.get(key)
        if key not in config.read_keys and value not in part.nothing:
            raise config.error(f"'{key}' is {shown(value)}: {part.refusal.format(model_type=model_type)}")
    if "layer_types" not in config.read_keys:
        for kind in config.words("layer_types") or ():
            if kind not in (FULL, SLIDING):
                raise config.error(f"'layer_types' holds '{kind}'; supported: '{FULL}', '{SLIDING}'")
