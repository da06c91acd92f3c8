"""From a config.json to a ModelSpec, by its `model_type`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.specs.model import ModelSpec

from . import dense, experts, layer_normed
from .architectures import check_class, check_foreign_keys, check_multimodal_class
from .reader import ConfigReader


class _Family(NamedTuple):
    """How the configurations of a family are read, and the classes that train it; letter case differs between versions."""

    read: Callable[[ConfigReader], ModelSpec]
    classes: tuple[str, ...]


_FAMILIES = {
    "bloom": _Family(layer_normed.read_bloom, ("BloomForCausalLM",)),
    "deepseek_v2": _Family(experts.read_deepseek_v2, ("DeepseekV2ForCausalLM",)),
    "deepseek_v3": _Family(experts.read_deepseek_v3, ("DeepseekV3ForCausalLM",)),
    "falcon": _Family(layer_normed.read_falcon, ("FalconForCausalLM", "RWForCausalLM")),
    "gemma": _Family(dense.read_gemma, ("GemmaForCausalLM",)),
    "gemma2": _Family(dense.read_gemma2, ("Gemma2ForCausalLM",)),
    "gemma3_text": _Family(dense.read_gemma3, ("Gemma3ForCausalLM",)),
    "gpt2": _Family(layer_normed.read_gpt2, ("GPT2LMHeadModel",)),
    "gpt_neox": _Family(layer_normed.read_gpt_neox, ("GPTNeoXForCausalLM",)),
    "gpt_oss": _Family(experts.read_gpt_oss, ("GptOssForCausalLM",)),
    "llama": _Family(dense.read_llama, ("LlamaForCausalLM",)),
    "mistral": _Family(dense.read_mistral, ("MistralForCausalLM",)),
    "mixtral": _Family(experts.read_mixtral, ("MixtralForCausalLM",)),
    "mpt": _Family(layer_normed.read_mpt, ("MptForCausalLM",)),
    "opt": _Family(layer_normed.read_opt, ("OPTForCausalLM",)),
    "phi": _Family(layer_normed.read_phi, ("PhiForCausalLM",)),
    "phi3": _Family(dense.read_phi3, ("Phi3ForCausalLM",)),
    "qwen2": _Family(dense.read_qwen2, ("Qwen2ForCausalLM",)),
    "qwen2_moe": _Family(experts.read_qwen2_moe, ("Qwen2MoeForCausalLM",)),
    "qwen3": _Family(dense.read_qwen3, ("Qwen3ForCausalLM",)),
    "qwen3_moe": _Family(experts.read_qwen3_moe, ("Qwen3MoeForCausalLM",)),
}

# The same architecture under another name, as transformers treats it (configuration_kimi_k25.py).
_SAME_ARCHITECTURE = {"kimi_k2": "deepseek_v3"}

# The text model of a multimodal family whose configuration may leave the nested `model_type` out.
_TEXT_MODEL_TYPES = {"gemma3": "gemma3_text"}

# Multimodal families whose configuration class ties the head where only the text part says so.
_TIED_BY_TEXT = ("fast_vlm", "llava", "llava_next_video", "llava_onevision", "shieldgemma2", "video_llama_3")


def supported_model_types() -> tuple[str, ...]:
    """The values of `model_type` that `model_from_config` reads."""
    return tuple(sorted((*_FAMILIES, *_SAME_ARCHITECTURE, *_TEXT_MODEL_TYPES)))


def model_from_config(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """The model that a Hugging Face config.json describes, counted as transformers builds it for causal LM training.

    Missing keys take the defaults of the transformers configuration class of that `model_type`; the hidden size and
    the number of layers must be there, as every real file has them. Both old key names (`n_embd`) and new ones are
    read, null means what it means to transformers, and keys about tokens, initialisation, quantisation or remote code
    (`auto_map`) are kept as data and never acted on.

    A multimodal configuration whose `text_config` is one of the supported families gives that language model alone:
    the name says "(text part)", and `ModelSpec.config` is the text configuration, because that is what was counted. A
    `tie_word_embeddings` beside `text_config` is that of the whole model's class and wins over the text part's.

    Refused is what would make another model of a known `model_type`: a class in `architectures` that is not the causal
    language model, and keys of parts that the family does not have (experts in a Llama, a draft's vocabulary).

    Args:
        config: the parsed file.
        name: what the model is called.
        source: the file's name, for errors.

    Raises:
        SpecError: one line naming the source, the key, what was given and what is allowed.
    """
    if not isinstance(config, Mapping):
        given = "null" if config is None else f"a {type(config).__name__}"
        raise SpecError(f"{source}: holds {given}; a config.json holds one object")
    multimodal = isinstance(config.get("text_config"), Mapping) or config.get("model_type") in tuple(_TEXT_MODEL_TYPES)
    if multimodal:
        config, name, source = _text_part(config, name, source)
    config = _by_its_known_name(config)
    model_type = _model_type(config, source)
    family = _FAMILIES.get(model_type)
    reader = ConfigReader(config, source=source, name=name)
    if family is None:
        raise reader.error(_unsupported(model_type))
    if not multimodal:  # the head of a text part is that of the whole model's class
        check_class(reader, model_type, family.classes)
    if config.get("per_layer_config"):
        raise reader.error("'per_layer_config' overrides single layers, which is not supported; remove it")
    try:
        model = family.read(reader)
        check_foreign_keys(reader, model_type)
        return model
    except ValidationError as error:
        raise reader.error(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    except RecursionError:
        raise reader.error("is nested too deep to be a configuration") from None


def _model_type(config: Mapping[str, Any], source: str) -> str:
    given = config.get("model_type")
    if given is None:
        raise SpecError(f"{source}: key 'model_type' is missing; is this a Hugging Face config.json?")
    if not isinstance(given, str):
        raise SpecError(f"{source}: 'model_type' is {given!r}: must be a word such as 'llama'")
    return given


def _text_part(config: Mapping[str, Any], name: str, source: str) -> tuple[Mapping[str, Any], str, str]:
    """The language model within a multimodal configuration, and what to call it and its place."""
    whole = _model_type(config, source)
    if not isinstance(config.get("text_config"), Mapping):
        raise SpecError(f"{source}: key 'text_config' is missing; model_type '{whole}' keeps its language model there")
    reader = ConfigReader(config, source=source, name=name)
    check_multimodal_class(reader)
    place = f"{source}: text_config"
    text = _by_its_known_name(
        {"model_type": _TEXT_MODEL_TYPES.get(whole), **config["text_config"], **_tied(reader, whole)}
    )
    text_type = _model_type(text, place)
    if text_type not in _FAMILIES:
        raise SpecError(f"{place}: of the multimodal model_type '{whole}', {_unsupported(text_type)}")
    return text, f"{name} (text part)", place


def _tied(config: ConfigReader, whole: str) -> dict[str, bool]:
    """What a multimodal configuration says of its head, which overrides its text part's own `tie_word_embeddings`.

    transformers ties the head of the whole model's class, by the key of that class. Where the file leaves it out, the
    text part's counts: transformers 4 wrote it only there, and loading never ties weights that a checkpoint holds apart.
    """
    if config.config.get("tie_word_embeddings") is None:
        return {}
    tied = config.flag("tie_word_embeddings", default=False)
    return {} if not tied and whole in _TIED_BY_TEXT else {"tie_word_embeddings": tied}


def _by_its_known_name(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration under the `model_type` that transformers knows its architecture by."""
    model_type = config.get("model_type")
    known = _SAME_ARCHITECTURE.get(model_type) if isinstance(model_type, str) else None
    return {**config, "model_type": known} if known else config


def _unsupported(model_type: str) -> str:
    """No nearest name: a family whose name is spelled alike is another architecture."""
    return f"model_type '{model_type}' is not supported; supported: {', '.join(supported_model_types())}"
