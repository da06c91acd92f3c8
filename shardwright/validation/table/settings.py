"""The `settings` cell of a row: what its notes or its recipe say beyond the columns, as `key=value; key=value`."""

import re
from typing import Literal

from pydantic import ValidationError

from shardwright.base import nearest
from shardwright.specs import PositiveInt, Spec

_SEPARATOR = re.compile(r"\s*;\s*")


class RowSettings(Spec):
    """Settings of one run; None is unknown.

    `grad_reduce`: format in which gradients are accumulated and reduced. `optimizer_states`: format of parameters that
    the optimizer updates and of its moments. `recompute_modules`: modules of each layer that the backward pass
    recomputes, joined by `+`; `none` for no recompute at all. `loss_chunks`: pieces in which head and loss run over a
    microbatch. `activation_offload_layers`: layers whose activations go to the host. `high_precision_layers`: layers
    whose matmuls stay in 16 bits. `pipeline_layout`: Megatron-Core's layout of the stages. `mtp_layers`: multi-token
    prediction layers. `expert_tp`: tensor parallelism inside an expert. `trainable`: `all`, `lora-r16`, or as `Trainable` reads it.
    """

    grad_reduce: Literal["bf16", "fp32"] | None = None
    optimizer_states: Literal["bf16", "fp32", "8bit"] | None = None
    recompute_modules: str | None = None
    loss_chunks: PositiveInt | None = None
    compile: bool | None = None
    cuda_graphs: str | None = None
    expert_tp: PositiveInt | None = None
    dispatch: Literal["all-to-all", "deepep", "hybridep"] | None = None
    expert_overlap: bool | None = None
    mtp_layers: int | None = None
    activation_offload_layers: int | None = None
    high_precision_layers: int | None = None
    fp8_attention: bool | None = None
    pipeline_layout: str | None = None
    trainable: str | None = None

    @property
    def modules(self) -> tuple[str, ...] | None:
        """The recomputed modules; empty for none, None if unknown."""
        if self.recompute_modules is None:
            return None
        return () if self.recompute_modules == "none" else tuple(self.recompute_modules.split("+"))


def parse_settings(text: str) -> RowSettings:
    """Read a cell.

    Raises:
        ValueError: a part is no `key=value`, a key is unknown or repeated, or a value is not one of its key's.
    """
    values: dict[str, str] = {}
    for part in filter(None, _SEPARATOR.split(text.strip())):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise ValueError(f"'{part}' is not key=value")
        if key not in RowSettings.model_fields:
            known = tuple(RowSettings.model_fields)
            raise ValueError(f"setting '{key}' is not known; known: {', '.join(known)}.{nearest(key, known)}")
        if key in values:
            raise ValueError(f"setting '{key}' is given twice")
        values[key] = value
    try:
        return RowSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"setting '{first['loc'][0]}={first['input']}': {first['msg']}") from None
