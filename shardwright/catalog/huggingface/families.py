"""From a config.json to a ModelSpec, by its `model_type`."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from shardwright.base import SpecError, nearest
from shardwright.specs.model import ModelSpec

from . import dense, experts, layer_normed
from .reader import ConfigReader

_READERS: dict[str, Callable[[ConfigReader], ModelSpec]] = {
    "bloom": layer_normed.read_bloom,
    "deepseek_v2": experts.read_deepseek_v2,
    "deepseek_v3": experts.read_deepseek_v3,
    "falcon": layer_normed.read_falcon,
    "gemma": dense.read_gemma,
    "gemma2": dense.read_gemma2,
    "gemma3_text": dense.read_gemma3,
    "gpt2": layer_normed.read_gpt2,
    "gpt_neox": layer_normed.read_gpt_neox,
    "gpt_oss": experts.read_gpt_oss,
    "llama": dense.read_llama,
    "mistral": dense.read_mistral,
    "mixtral": experts.read_mixtral,
    "mpt": layer_normed.read_mpt,
    "opt": layer_normed.read_opt,
    "phi": layer_normed.read_phi,
    "phi3": dense.read_phi3,
    "qwen2": dense.read_qwen2,
    "qwen2_moe": experts.read_qwen2_moe,
    "qwen3": dense.read_qwen3,
    "qwen3_moe": experts.read_qwen3_moe,
}

# The text model of a multimodal family whose configuration may leave the nested `model_type` out.
_TEXT_MODEL_TYPES = {"gemma3": "gemma3_text"}


def supported_model_types() -> tuple[str, ...]:
    """The values of `model_type` that `model_from_config` reads."""
    return tuple(sorted((*_READERS, *_TEXT_MODEL_TYPES)))


def model_from_config(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """The model that a Hugging Face config.json describes, counted as transformers builds it for causal LM training.

    Missing keys take the defaults of the transformers configuration class of that `model_type`; the hidden size and
    the number of layers must be there, as every real file has them. Both old key names (`n_embd`) and new ones are
    read, null means what it means to transformers, and keys about tokens, initialisation, quantisation or remote code
    (`auto_map`) are kept as data and never acted on.

    A multimodal configuration whose `text_config` is one of the supported families gives that language model alone:
    the name says "(text part)", and `ModelSpec.config` is the text configuration, because that is what was counted.

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
    if isinstance(config.get("text_config"), Mapping) or config.get("model_type") in tuple(_TEXT_MODEL_TYPES):
        config, name, source = _text_part(config, name, source)
    reader = ConfigReader(config, source=source, name=name)
    model_type = _model_type(config, source)
    read = _READERS.get(model_type)
    if read is None:
        raise reader.error(_unsupported(model_type))
    if config.get("per_layer_config"):
        raise reader.error("'per_layer_config' overrides single layers, which is not supported; remove it")
    try:
        return read(reader)
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
    place = f"{source}: text_config"
    text = {"model_type": _TEXT_MODEL_TYPES.get(whole), **config["text_config"]}
    text_type = _model_type(text, place)
    if text_type not in _READERS:
        raise SpecError(f"{place}: of the multimodal model_type '{whole}', {_unsupported(text_type)}")
    return text, f"{name} (text part)", place


def _unsupported(model_type: str) -> str:
    supported = supported_model_types()
    hint = nearest(model_type, supported)
    return f"model_type '{model_type}' is not supported; supported: {', '.join(supported)}.{hint}"
