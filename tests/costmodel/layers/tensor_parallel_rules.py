"""Division over tp of layers as the cost model sees them, in torch's `DTensor`s: an independent way beside the executor's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle, PrepareModuleInput, parallelize_module
from torch.distributed.tensor.placement_types import Placement


@dataclass(kw_only=True)  # not frozen: parallelize_module sets its src_data_rank
class Layout(ParallelStyle):
    """Run a module on `DTensor`s between plain tensors.

    A plain first input is taken as this rank's part in layout `given` and moved to `used`. The output is moved to
    `produced` and passed on as this rank's plain part; a plain output is not changed. Gradients return the same way, so
    DTensor does the sums over tp for a replicated parameter or a gathered input. `placements` are those of the
    parameters; a parameter without one is replicated.
    """

    given: Placement
    used: Placement
    produced: Placement
    placements: Mapping[str, Placement] = field(default_factory=dict)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # torch types the hooks as returning nothing, but uses what they return
        return distribute_module(module, device_mesh, self._partition, cast(Any, self._enter), self._leave)

    def _partition(self, _name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            placement = self.placements.get(name, Replicate())
            # every rank made the same full tensor from the seed, so each cuts its own part without communication
            part = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(part, requires_grad=parameter.requires_grad))

    def _enter(self, _module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        first, *rest = inputs
        if not isinstance(first, DTensor):
            first = DTensor.from_local(first, mesh, [self.given], run_check=False)
        return (first.redistribute(placements=[self.used]), *rest)

    def _leave(self, _module: nn.Module, output: Any, _mesh: DeviceMesh) -> Any:
        if not isinstance(output, DTensor):
            return output
        return output.redistribute(placements=[self.produced]).to_local()


def replicated(stream: Placement, *, given: Placement | None = None) -> Layout:
    """Return parameters that are whole on every tp rank, applied to an input divided as `stream`."""
    return Layout(given=given or stream, used=stream, produced=stream)


def column_parallel(**placements: Placement) -> Layout:
    """Return a projection whose outputs are divided over tp. Every rank reads the whole input."""
    return Layout(given=Replicate(), used=Replicate(), produced=Shard(-1), placements=placements)


def row_parallel(stream: Placement, **placements: Placement) -> Layout:
    """Return a projection whose inputs are divided over tp. The partial sums of
    the ranks are added into layout `stream`."""
    return Layout(given=Shard(-1), used=Shard(-1), produced=stream, placements=placements)


def divide(module: nn.Module, mesh: DeviceMesh, styles: ParallelStyle | Mapping[str, ParallelStyle]) -> None:
    """Divide `module` over the one-dimensional `mesh`, without communication: one style, or one per submodule path."""
    parallelize_module(module, mesh, dict(styles) if isinstance(styles, Mapping) else styles, src_data_rank=None)


def stream_layout(*, sequence_parallel: bool) -> Placement:
    """Return the layout over tp of the residual stream (batch, sequence, hidden)."""
    return Shard(1) if sequence_parallel else Replicate()


Rules = Callable[[Placement], Mapping[str, ParallelStyle]]


def _column() -> ParallelStyle:
    return column_parallel(weight=Shard(0), bias=Shard(0))


def _four_norms(rules: Rules) -> Rules:
    """The rules of a layer that also normalises the output of both halves."""
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return lambda stream: {**rules(stream), **{name: replicated(stream) for name in names}}


def _named(norms: str, columns: str, rows: str) -> Rules:
    """Rules from space-separated paths. The output of a norm is gathered whole."""

    def rules(stream: Placement) -> dict[str, ParallelStyle]:
        return {
            **{path: Layout(given=stream, used=stream, produced=Replicate()) for path in norms.split()},
            **{path: _column() for path in columns.split()},
            **{path: row_parallel(stream, weight=Shard(1)) for path in rows.split()},
        }

    return rules


def _llama(stream: Placement) -> dict[str, ParallelStyle]:
    whole_sequence = Replicate()
    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    return {
        "input_layernorm": replicated(stream),
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": stream},
            desired_input_kwarg_layouts={"hidden_states": whole_sequence},
        ),
        **{path: _column() for path in columns},
        "self_attn.o_proj": row_parallel(stream, weight=Shard(1)),
        "post_attention_layernorm": replicated(stream),
        "mlp": PrepareModuleInput(input_layouts=stream, desired_input_layouts=whole_sequence),
        "mlp.down_proj": row_parallel(stream, weight=Shard(1)),
    }


def _qwen3(stream: Placement) -> dict[str, ParallelStyle]:
    by_head = Shard(2)  # these norms read (batch, sequence, heads, head size)
    return {
        **_llama(stream),
        "self_attn.q_norm": replicated(by_head),
        "self_attn.k_norm": replicated(by_head),
    }


RULES: Mapping[str, Rules] = {
    "mistral": _llama,
    "qwen2": _llama,
    "gemma": _llama,
    "gemma2": _four_norms(_llama),
    "gemma3_text": _four_norms(_qwen3),
    "bloom": _named(
        "input_layernorm post_attention_layernorm",
        "self_attention.query_key_value mlp.dense_h_to_4h",
        "self_attention.dense mlp.dense_4h_to_h",
    ),
    "falcon": _named(
        "ln_attn ln_mlp",
        "self_attention.query_key_value mlp.dense_h_to_4h",
        "self_attention.dense mlp.dense_4h_to_h",
    ),
    "gpt_neox": _named(
        "input_layernorm post_attention_layernorm",
        "attention.query_key_value mlp.dense_h_to_4h",
        "attention.dense mlp.dense_4h_to_h",
    ),
    "opt": _named(
        "self_attn_layer_norm final_layer_norm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj fc1",
        "self_attn.out_proj fc2",
    ),
    "phi": _named(
        "input_layernorm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.fc1",
        "self_attn.dense mlp.fc2",
    ),
}
# OPT's layer flattens batch and sequence in between, so that the sequence cannot be divided over tp
WHOLE_SEQUENCE = ("opt",)


def prepare(layer: nn.Module, tp: int) -> None:
    """Tell attention how many heads a rank has, where it counts them by itself.

    Falcon adds in place to the output of its feed-forward, which DTensor forbids; here it adds to a copy.
    """
    if tp > 1 and hasattr(layer, "ln_mlp"):
        layer.get_submodule("mlp").register_forward_hook(lambda _module, _inputs, output: output.clone())
    for name in ("self_attn", "self_attention"):
        attention: Any = getattr(layer, name, None)
        for count in ("num_heads", "num_kv_heads"):
            if hasattr(attention, count):
                setattr(attention, count, getattr(attention, count) // tp)
