"""Conversion of a config.json to a ModelSpec, by its `model_type`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.specs.model import ModelSpec

from . import dense, experts, hybrid, layer_normed, more_experts
from .architectures import check_class, check_foreign_keys, check_multimodal_class
from .reader import ConfigReader


class _Family(NamedTuple):
    """The reader of a family's configurations, and the classes that train it. Letter case differs between versions."""

    read: Callable[[ConfigReader], ModelSpec]
    classes: tuple[str, ...]


_FAMILIES = {
    "bamba": _Family(hybrid.read_bamba, ("BambaForCausalLM",)),
    "bloom": _Family(layer_normed.read_bloom, ("BloomForCausalLM",)),
    "cohere": _Family(layer_normed.read_cohere, ("CohereForCausalLM",)),
    "cohere2": _Family(layer_normed.read_cohere2, ("Cohere2ForCausalLM",)),
    "deepseek_v2": _Family(experts.read_deepseek_v2, ("DeepseekV2ForCausalLM",)),
    "deepseek_v3": _Family(experts.read_deepseek_v3, ("DeepseekV3ForCausalLM",)),
    "ernie4_5": _Family(dense.read_ernie, ("Ernie4_5ForCausalLM",)),
    "ernie4_5_moe": _Family(more_experts.read_ernie_moe, ("Ernie4_5_MoeForCausalLM",)),
    "falcon": _Family(layer_normed.read_falcon, ("FalconForCausalLM", "RWForCausalLM")),
    "gemma": _Family(dense.read_gemma, ("GemmaForCausalLM",)),
    "gemma2": _Family(dense.read_gemma2, ("Gemma2ForCausalLM",)),
    "gemma3_text": _Family(dense.read_gemma3, ("Gemma3ForCausalLM",)),
    "glm4": _Family(dense.read_glm4, ("Glm4ForCausalLM",)),
    "glm4_moe": _Family(more_experts.read_glm4_moe, ("Glm4MoeForCausalLM",)),
    "gpt2": _Family(layer_normed.read_gpt2, ("GPT2LMHeadModel",)),
    "gpt_neox": _Family(layer_normed.read_gpt_neox, ("GPTNeoXForCausalLM",)),
    "gpt_oss": _Family(experts.read_gpt_oss, ("GptOssForCausalLM",)),
    "granite": _Family(dense.read_granite, ("GraniteForCausalLM",)),
    "granitemoe": _Family(more_experts.read_granite_moe, ("GraniteMoeForCausalLM",)),
    "granitemoehybrid": _Family(hybrid.read_granite_hybrid, ("GraniteMoeHybridForCausalLM",)),
    "llama": _Family(dense.read_llama, ("LlamaForCausalLM",)),
    "llama4_text": _Family(more_experts.read_llama4, ("Llama4ForCausalLM",)),
    "longcat_flash": _Family(more_experts.read_longcat_flash, ("LongcatFlashForCausalLM",)),
    "minimax": _Family(hybrid.read_minimax, ("MiniMaxForCausalLM",)),
    "minimax_m2": _Family(more_experts.read_minimax_m2, ("MiniMaxM2ForCausalLM",)),
    "mistral": _Family(dense.read_mistral, ("MistralForCausalLM",)),
    "mixtral": _Family(experts.read_mixtral, ("MixtralForCausalLM",)),
    "mpt": _Family(layer_normed.read_mpt, ("MptForCausalLM",)),
    "nemotron_h": _Family(hybrid.read_nemotron_h, ("NemotronHForCausalLM",)),
    "olmo2": _Family(dense.read_olmo2, ("Olmo2ForCausalLM",)),
    "olmo3": _Family(dense.read_olmo3, ("Olmo3ForCausalLM",)),
    "olmoe": _Family(more_experts.read_olmoe, ("OlmoeForCausalLM",)),
    "opt": _Family(layer_normed.read_opt, ("OPTForCausalLM",)),
    "phi": _Family(layer_normed.read_phi, ("PhiForCausalLM",)),
    "phi3": _Family(dense.read_phi3, ("Phi3ForCausalLM",)),
    "phimoe": _Family(more_experts.read_phimoe, ("PhimoeForCausalLM",)),
    "qwen2": _Family(dense.read_qwen2, ("Qwen2ForCausalLM",)),
    "qwen2_moe": _Family(experts.read_qwen2_moe, ("Qwen2MoeForCausalLM",)),
    "qwen3": _Family(dense.read_qwen3, ("Qwen3ForCausalLM",)),
    "qwen3_moe": _Family(experts.read_qwen3_moe, ("Qwen3MoeForCausalLM",)),
    "qwen3_next": _Family(experts.read_qwen3_next, ("Qwen3NextForCausalLM",)),
    "seed_oss": _Family(dense.read_seed_oss, ("SeedOssForCausalLM",)),
    "smollm3": _Family(dense.read_smollm3, ("SmolLM3ForCausalLM",)),
}

# The same architecture under another name, as in transformers (configuration_kimi_k25.py).
_SAME_ARCHITECTURE = {"kimi_k2": "deepseek_v3"}
# those that an error names, so that it stays one line
_WELL_KNOWN = (
    "deepseek_v3",
    "gemma3",
    "glm4_moe",
    "gpt2",
    "gpt_oss",
    "llama",
    "llama4",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
)

# The text model of a multimodal family whose configuration may omit the nested `model_type`.
_TEXT_MODEL_TYPES = {"gemma3": "gemma3_text", "llama4": "llama4_text"}

# Multimodal families whose configuration class ties the head where only the text part says so.
_TIED_BY_TEXT = ("fast_vlm", "llava", "llava_next_video", "llava_onevision", "shieldgemma2", "video_llama_3")


def supported_model_types() -> tuple[str, ...]:
    """Return the values of `model_type` that `model_from_config` reads."""
    return tuple(sorted((*_FAMILIES, *_SAME_ARCHITECTURE, *_TEXT_MODEL_TYPES)))


def model_from_config(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """Return the model of a Hugging Face config.json, counted as transformers builds it for causal LM training.

    Missing keys take the defaults of the transformers configuration class of that `model_type`. The hidden size and the
    number of layers must be given, as in every real file. Both old key names (`n_embd`) and new ones are read. A null
    has the meaning that it has in transformers. Keys about tokens, initialisation, quantisation or remote code
    (`auto_map`) are kept as data and have no effect.

    A multimodal configuration whose `text_config` is of a supported family gives only that language model. Its name
    ends in "(text part)", and `ModelSpec.config` is the text configuration, because only that was counted. A
    `tie_word_embeddings` beside `text_config` belongs to the whole model's class and overrides the text part's.

    Some entries would make another model of a known `model_type`, and are refused: a class in `architectures` that is
    not the causal language model, and keys of parts that the family does not have. Examples of such parts are experts
    in a Llama, and the vocabulary of a draft model.

    Args:
        config: the parsed file.
        name: name of the model.
        source: name of the file, for errors.

    Raises:
        SpecError: one line that names the source, the key, the given value and the allowed ones.
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
    """Return the language model within a multimodal configuration, its name, and its place in the file."""
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
    """Return the tie of a multimodal configuration's head, which overrides `tie_word_embeddings` of its text part.

    transformers ties the head of the whole model's class, by the key of that class. Where the file omits that key, the
    text part's key counts. The reason is that transformers 4 wrote it only there, and loading never ties weights that a
    checkpoint holds separately.
    """
    if config.config.get("tie_word_embeddings") is None:
        return {}
    tied = config.flag("tie_word_embeddings", default=False)
    return {} if not tied and whole in _TIED_BY_TEXT else {"tie_word_embeddings": tied}


def _by_its_known_name(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration with the `model_type` by which transformers knows its architecture."""
    model_type = config.get("model_type")
    known = _SAME_ARCHITECTURE.get(model_type) if isinstance(model_type, str) else None
    return {**config, "model_type": known} if known else config


def _unsupported(model_type: str) -> str:
    """Return the message. It names no nearest type: a family with a similar name is another architecture."""
    some = ", ".join(name for name in supported_model_types() if name in _WELL_KNOWN)
    more = len(supported_model_types()) - len(_WELL_KNOWN)
    return f"model_type '{model_type}' is not supported; supported: {some} and {more} more that README.md lists"
