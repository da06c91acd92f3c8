"""The options of a job by name, as the commands have them, with what stands for those that are left out."""

from collections.abc import Mapping
from typing import Any

from shardwright.base import SpecError, nearest
from shardwright.specs import CHOICES

AUTO = "auto"

TRAINING_DEFAULTS: Mapping[str, Any] = {
    "precision": AUTO,
    "linear_precision": None,
    "allow_precision": "",
    "optimizer": "adamw",
    "allow_approximate": "",
    "attention": AUTO,
    "fp8_attention": False,
    "stack": "shardwright",
    "loss_chunks": None,
    "overlaps_dispatch": False,
    "global_balance": False,
    "dispatch_pieces": 1,
    "tokens_per_centroid": 1,
    "expert_imbalance": 1.0,
    "hot_experts": 0,
    "mlp_tiles": 1,
    "sequence_chunks": 1,
    "mtp_layers": 0,
    "activation_offload_layers": 0,
    "high_precision_layers": 0,
    "recompute_modules": "",
    "cuda_graphs": "none",
    "trainable": "all",
    "lengths": "",
    "packing": "",
}
PLAN_DEFAULTS: Mapping[str, Any] = {
    **TRAINING_DEFAULTS,
    "offload": False,
    **{choice.name: None for choice in CHOICES},
}


def options_of(
    given: Mapping[str, Any], defaults: Mapping[str, Any], *, seq_len: int, global_batch: int
) -> dict[str, Any]:
    """Return all options by name: those given, and the defaults of the others.

    Raises:
        SpecError: an option that is none.
    """
    for name in given:
        if name not in defaults:
            raise SpecError(f"'{name}' is no option of a job; allowed: {', '.join(defaults)}.{nearest(name, defaults)}")
    return {**defaults, **given, "seq_len": seq_len, "global_batch": global_batch}
