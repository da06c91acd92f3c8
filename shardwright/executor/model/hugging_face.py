"""A Hugging Face model from a plan file's config: the checks, and the module on the meta device."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile

from .initial_weights import settle_rotation
from .structure import Structure, read_structure

logger = logging.getLogger(__name__)

DROPOUT_ENDINGS = ("dropout", "pdrop", "dropout_prob", "dropout_rate", "jitter_noise")


@dataclass(frozen=True)
class Skeleton:
    """The whole model without storage (meta device), and where its parts are. `name`: for messages. `asks_for_router_loss`: its
    configuration has `output_router_logits`; the model itself, of which stages have parts, does not compute that loss."""

    model: PreTrainedModel
    structure: Structure
    name: str
    asks_for_router_loss: bool = False

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def tied(self) -> bool:
        """Whether the head's weight is the embedding's."""
        return bool(self.config.tie_word_embeddings)

    @property
    def tied_names(self) -> dict[str, str]:
        """Map the name of the head's weight to that of the embedding's, where the model ties them."""
        return {f"{self.structure.head}.weight": f"{self.structure.embedding}.weight"} if self.tied else {}

    @property
    def layer_count(self) -> int:
        return len(self.layers)

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.model.get_submodule(self.structure.layers).children())

    def layer(self, index: int) -> nn.Module:
        return self.model.get_submodule(f"{self.structure.layers}.{index}")


def read_skeleton(plan_file: PlanFile) -> Skeleton:
    """Build the model of the plan file's config on the meta device.

    No code of the config is run (its `auto_map` is ignored) and nothing is downloaded. Dropout rates are set to 0. A
    dropped element would depend on how the plan divides the model, and two plans would no longer train alike.

    Raises:
        SpecError: transformers has no such causal model, its parts are not where stages can be cut, the config can't be
            read, or the plan does not fit the model.
    """
    name = plan_file.model_name
    config = read_config(plan_file)
    for key, rate in list(vars(config).items()):
        if key.endswith(DROPOUT_ENDINGS) and isinstance(rate, float) and rate:
            logger.info("%s: %s of %s is set to 0 for training", name, rate, key)
            setattr(config, key, 0.0)
    config.use_cache = False
    asks_for_router_loss = bool(getattr(config, "output_router_logits", False))
    if asks_for_router_loss:
        config.output_router_logits = False
    if getattr(config, "add_cross_attention", False):
        raise SpecError(f"{name} has add_cross_attention: only decoders without cross-attention can be trained")
    model = build_on_meta(config, name, kernel=_kernel(plan_file, config))
    settle_rotation(model, plan_file.training.seq_len)
    structure = read_structure(model, name)
    _check_positions(plan_file, model, structure)
    skeleton = Skeleton(model, structure, name, asks_for_router_loss)
    if plan_file.plan.layer_count != skeleton.layer_count:
        raise SpecError(
            f"the plan's stages hold {plan_file.plan.layer_count} layers, {name} has {skeleton.layer_count}"
        )
    return skeleton


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' causal language model for a configuration."""
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    chosen: type[PreTrainedModel] = found
    return chosen


def lacks_fused_attention(config: PreTrainedConfig) -> bool:
    """Whether transformers has no fused attention for the class: one that caps scores (Gemma 2) or adds sinks (gpt-oss)."""
    return not model_class(config)._supports_sdpa


def _kernel(plan_file: PlanFile, config: PreTrainedConfig) -> str:
    return "eager" if plan_file.training.attention == "unfused" or lacks_fused_attention(config) else "sdpa"


def read_config(plan_file: PlanFile) -> PreTrainedConfig:
    """Return the configuration of the plan file's model as transformers reads it.

    Raises:
        SpecError: transformers has no such causal model, or its configuration is not valid.
    """
    given, name = dict(plan_file.model_config_json), plan_file.model_name
    model_type = given.pop("model_type", None)
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SpecError(f"model_type '{model_type}' of {name} is no causal language model of transformers")
    config_class = CONFIG_MAPPING[model_type]
    with _config_errors(config_class.__name__, name):
        config: PreTrainedConfig = config_class.from_dict({"model_type": model_type, **given})
    return config


def build_on_meta(config: PreTrainedConfig, name: str, *, kernel: str) -> PreTrainedModel:
    """Build the causal language model of a configuration without storage, in fp32, in training mode.

    Raises:
        SpecError: the configuration is not valid for the class.
    """
    build: Any = model_class(config)._from_config
    with torch.device("meta"), _config_errors(type(config).__name__, name):
        model: PreTrainedModel = build(config, attn_implementation=kernel, dtype=torch.float32)
        model.train()
    return model


@contextlib.contextmanager
def _config_errors(config_class: str, model_name: str) -> Iterator[None]:
    """Turn the errors of transformers for a wrong config, of a dozen kinds in
    validators and construction, into one line."""
    try:
        yield
    except Exception as error:
        detail = " ".join(str(error).split())
        raise SpecError(f"{model_name}: its config is not a valid {config_class}: {detail}") from None


def _check_positions(plan_file: PlanFile, model: PreTrainedModel, structure: Structure) -> None:
    """Refuse a sequence that is longer than a learned position embedding."""
    name, seq_len = plan_file.model_name, plan_file.training.seq_len
    for path in structure.before:
        part = model.get_submodule(path)
        if path == structure.embedding or not isinstance(part, nn.Embedding):
            continue
        positions = min(part.num_embeddings, getattr(model.config, "max_position_embeddings", part.num_embeddings))
        if seq_len > positions:
            raise SpecError(
                f"seq_len {seq_len} is more than the {positions} positions of {name}; give {positions} or less"
            )
