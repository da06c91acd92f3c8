"""A Hugging Face model from a plan file's config: its family, the checks, and the module on the meta device."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import check_trained

from .families import FAMILIES, Family
from .tensor_parallel import FusedQueryKeyValue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skeleton:
    """The whole model without storage (meta device), and its family."""

    family: Family
    model: PreTrainedModel

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def tied(self) -> bool:
        """Whether the head's weight is the embedding's."""
        return bool(self.config.tie_word_embeddings)


def read_skeleton(plan_file: PlanFile) -> Skeleton:
    """Build the model of the plan file's config on the meta device.

    No code of the config is run (its `auto_map` is ignored) and nothing is downloaded. Dropout rates are set to 0. A
    dropped element would depend on how the plan divides the model, and two plans would no longer train alike.

    Raises:
        SpecError: the engine does not train the family, the config can't be read, or the plan does not fit the model.
    """
    given = dict(plan_file.model_config_json)
    check_trained(plan_file)
    family = FAMILIES[given["model_type"]]
    with _config_errors(family, plan_file.model_name):
        config = family.config_class.from_dict(given)
    for name in family.dropouts:
        if rate := getattr(config, name, 0.0):
            logger.info("%s: %s of %s is set to 0 for training", plan_file.model_name, rate, name)
        setattr(config, name, 0.0)
    config.use_cache = False
    _check_fit(plan_file, config, family)
    kernel = {"flash": "sdpa", "unfused": "eager"}[plan_file.training.attention]
    build: Any = family.model_class._from_config
    with torch.device("meta"), _config_errors(family, plan_file.model_name):
        model: PreTrainedModel = build(config, attn_implementation=kernel, dtype=torch.float32)
    return Skeleton(family, model)


@contextlib.contextmanager
def _config_errors(family: Family, model_name: str) -> Iterator[None]:
    """Turn the errors of transformers for a wrong config, of a dozen kinds in
    validators and construction, into one line."""
    try:
        yield
    except Exception as error:
        detail = " ".join(str(error).split())
        raise SpecError(f"{model_name}: its config is not a valid {family.config_class.__name__}: {detail}") from None


def _check_fit(plan_file: PlanFile, config: PreTrainedConfig, family: Family) -> None:
    name, plan, seq_len = plan_file.model_name, plan_file.plan, plan_file.training.seq_len
    if plan.layer_count != config.num_hidden_layers:
        raise SpecError(f"the plan's stages hold {plan.layer_count} layers, {name} has {config.num_hidden_layers}")
    if family.positions is not None and seq_len > config.max_position_embeddings:
        raise SpecError(
            f"seq_len {seq_len} is more than the {config.max_position_embeddings} positions of {name}; "
            f"give {config.max_position_embeddings} or less"
        )
    if getattr(config, "add_cross_attention", False):
        raise SpecError(f"{name} has add_cross_attention: only decoders without cross-attention can be trained")
    _check_tensor_parallel(plan_file, config)


def _check_tensor_parallel(plan_file: PlanFile, config: PreTrainedConfig) -> None:
    name, plan, seq_len = plan_file.model_name, plan_file.plan, plan_file.training.seq_len
    tp = plan.mesh.tp
    heads = config.num_attention_heads
    widths = {
        "attention heads": heads,
        "key-value heads": getattr(config, "num_key_value_heads", None) or heads,
        "feed-forward width": getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * config.hidden_size,
    }
    for what, width in widths.items():
        if width % tp:
            raise SpecError(f"{name} has {what} {width}, which tp {tp} does not divide; give a divisor of {width}")
    if plan.sequence_parallel and seq_len % tp:
        raise SpecError(
            f"sequence parallelism needs seq_len {seq_len} divisible by tp {tp}; plan without it or change one"
        )


def unfuse(layer: torch.nn.Module, *, tp: int) -> None:
    """Replace the fused projection of a GPT-2 layer by one whose heads tensor parallelism can divide. Others stay."""
    attention = getattr(layer, "attn", None)
    fused = getattr(attention, "c_attn", None)
    if attention is not None and fused is not None:
        attention.c_attn = FusedQueryKeyValue(fused)
        attention.split_size //= tp
