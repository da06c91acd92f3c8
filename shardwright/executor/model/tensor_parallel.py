"""Tensor parallelism of one module: its parameters over tp, and the moves around its forward pass."""

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement
from transformers.pytorch_utils import Conv1D

from .division import LayerDivision, Region, Role
from .fused import StackedQueryKeyValue, is_linear_attention, is_state_space, stacks_experts
from .moves import (
    GATHER_COLUMNS,
    GATHER_SEQUENCE,
    GATHER_SEQUENCE_WHOLE,
    SCATTER_SEQUENCE,
    SLICE_COLUMNS,
    SLICE_SEQUENCE,
    SUM,
    SUM_GRADIENTS,
    MeshRanks,
    Move,
    Ranks,
)

_HEAD_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "split_size")
_LINEAR_HEAD_COUNTS = ("num_k_heads", "num_v_heads", "key_dim", "value_dim", "conv_dim")
_STATE_SPACE_COUNTS = ("num_heads", "n_groups", "intermediate_size", "conv_dim")
"""Attributes of attention that count heads, or columns of heads, of this rank."""

ADAPTER_A, ADAPTER_B = "lora_A", "lora_B"
"""Parameters of a linear's adapter: A (rank, inputs), and B (outputs, rank) or its parts, whose names begin so. Of stacked experts
both names end in the name of the weight."""


def divide_layer(
    layer: nn.Module,
    division: LayerDivision,
    ranks: Ranks,
    *,
    sequence_parallel: bool,
    within: Callable[[nn.Module, int], None] = lambda _region, _parts: None,
) -> None:
    """Divide a layer's parameters over `ranks`, and exchange what its modules need.

    The layer takes and returns hidden states (batch, sequence / tp under sequence parallelism, hidden). `within` may change
    each region inside what is exchanged around it; it is told over how many ranks the output is scattered along the sequence.
    """
    for path, region in division.regions.items():
        _divide_region(layer, path, region, ranks, sequence_parallel)
        top, scattered = layer.get_submodule(path), sequence_parallel and region.sums_output
        within(top, ranks.size if scattered else 1)
        _move_around(top, region, ranks, sequence_parallel)
    for path, module in layer.named_modules():
        if not any(path == region or path.startswith(f"{region}.") for region in division.regions):
            replicate(module, ranks, partial=sequence_parallel)


def _divide_region(layer: nn.Module, path: str, region: Region, ranks: Ranks, sequence_parallel: bool) -> None:
    top = layer.get_submodule(path)
    for inner, module in list(top.named_modules(prefix=path)):
        if inner in region.roles:
            _divide_module(module, region.roles[inner], region, ranks, sequence_parallel)
    whole: list[nn.Module] = []
    for inner, module in list(top.named_modules(prefix=path)):
        if not _divide_parameters(module, inner, region, ranks):
            whole.append(module)
    # some code reads the parameters of a module without calling it
    compute_with(top, lambda name, parameter: in_shape(name, ranks.local(parameter, partial=False)), owners=whole)
    if any(role == "column" for role in region.roles.values()):
        for module in top.modules():
            _count_own_heads(module, ranks.size)


def _move_around(top: nn.Module, region: Region, ranks: Ranks, sequence_parallel: bool) -> None:
    if region.shares_input:
        move_input(top, GATHER_SEQUENCE if sequence_parallel else SUM_GRADIENTS, ranks)
    elif sequence_parallel:
        move_input(top, GATHER_SEQUENCE_WHOLE, ranks)
        if not region.sums_output:
            move_output(top, SLICE_SEQUENCE, ranks)


def _divide_module(module: nn.Module, role: Role, region: Region, ranks: Ranks, sequence_parallel: bool) -> None:
    if role in ("column", "column_gathered"):
        if isinstance(module, Conv1D):
            module.nf //= ranks.size  # its code reads the width of its output there
        if not region.shares_input:
            move_input(module, SUM_GRADIENTS, ranks)
    if role == "column_gathered":
        move_output(module, GATHER_COLUMNS, ranks)
    elif role == "row_sliced":
        move_input(module, SLICE_COLUMNS, ranks)
    elif role == "experts":
        move_input(module, SUM_GRADIENTS, ranks, every=True)
    elif role == "once":
        _return_on_first_rank(module, ranks)
    elif role == "latent":
        _share_rotary_columns(module, region.rotary_columns, ranks)
    if role in ("row", "row_sliced", "experts"):
        scatters = sequence_parallel and region.sums_output
        move_output(module, SCATTER_SEQUENCE if scatters else SUM, ranks)


def _divide_parameters(module: nn.Module, path: str, region: Region, ranks: Ranks) -> bool:
    """Divide the parameters that `module` owns, by its own role, that of the fused linear above it, or theirs.

    Returns false where it has none: its parameters are then whole on every rank, and it does not compute with them yet.
    """
    role = _role(path, region)
    if any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
        return True  # experts, which are spread already
    if role == "whole_norm":
        _norm_over_ranks(module, ranks)
        return True
    if role is None and not any(f"{path}.{name}" in region.roles for name, _ in module.named_parameters(recurse=False)):
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, ranks.part(parameter, Replicate()))
        return False
    if isinstance(module, nn.Conv1d):  # filters that are read
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, ranks.part(parameter, Shard(0)))
        return False
    added_once = {
        name
        for name, _ in module.named_parameters(recurse=False)
        if region.roles.get(f"{path}.{name}") == "once" or (name == "bias" and role in ("row", "row_sliced"))
    }
    if placements := _own_placements(module, path, region):
        of_parts = {name for name in placements if role == "by_head" or _sums_adapter(name, _adapter_role(name, role))}
        _run_locally(module, placements, added_once, ranks, of_parts=of_parts)
    return True


def _sums_adapter(name: str, role: Role | None) -> bool:
    """Whether every rank holds this matrix of an adapter and computes with its part: A before divided outputs, B behind divided
    inputs, whose product is part of the sum that the linear's output is."""
    if name.startswith(ADAPTER_A):
        return role in ("column", "column_gathered")
    return name.startswith(ADAPTER_B) and role in ("row", "row_sliced")


def _adapter_role(name: str, role: Role | None) -> Role | None:
    """Return the role of a parameter, `role`, or that of the linears which an adapter of stacked experts is beside."""
    if role != "experts" or not name.startswith((ADAPTER_A, ADAPTER_B)):
        return role
    return "row" if name.endswith("down_proj") else "column"


def _role(path: str, region: Region) -> Role | None:
    return region.roles.get(path) or region.roles.get(path.rpartition(".")[0])


def _own_placements(module: nn.Module, path: str, region: Region) -> dict[str, Placement]:
    return {
        name: _placement(module, name, parameter, region.roles.get(f"{path}.{name}") or _role(path, region))
        for name, parameter in module.named_parameters(recurse=False)
    }


def placements_of(layer: nn.Module, division: LayerDivision) -> dict[str, Placement]:
    """Return where tp cuts the parameters of a layer's regions, by path."""
    return {
        f"{inner}.{name}": placement
        for path, region in division.regions.items()
        for inner, module in layer.get_submodule(path).named_modules(prefix=path)
        for name, placement in _own_placements(module, inner, region).items()
    }


def _placement(module: nn.Module, name: str, parameter: Tensor, role: Role | None) -> Placement:
    """Return where tp cuts a parameter. Linears hold (out, in), transformers' `Conv1D` (in, out)."""
    if name.startswith((ADAPTER_A, ADAPTER_B)):
        role = _adapter_role(name, role)
        columns, rows = role in ("column", "column_gathered"), role in ("row", "row_sliced")
        if name.startswith(ADAPTER_A):
            return Shard(parameter.dim() - 1) if rows else Replicate()
        return Shard(parameter.dim() - 2) if columns else Replicate()
    if role in ("column", "column_gathered"):
        if isinstance(module, nn.Conv1d):
            return Shard(0)
        if isinstance(module, StackedQueryKeyValue):
            return Shard(parameter.dim() - 1)
        if isinstance(module, Conv1D):
            return Shard(parameter.dim() - 1)
        return Shard(max(0, parameter.dim() - 2))
    if role in ("row", "row_sliced"):
        if isinstance(module, (nn.Linear, Conv1D)) and name == "bias":
            return Replicate()
        return Shard(0) if isinstance(module, Conv1D) else Shard(parameter.dim() - 1)
    if role == "whole_norm":
        return Shard(0)
    if role == "packed":
        return Shard(2)  # (experts, 2, width, hidden)
    return Replicate()


def _run_locally(
    module: nn.Module,
    placements: Mapping[str, Placement],
    added_once: set[str],
    ranks: Ranks,
    *,
    of_parts: Container[str],
) -> None:
    """Divide the module's own parameters, and compute with this rank's parts as plain tensors.

    `added_once`: parameters that are added to partial sums, by the first rank alone. `of_parts`: whole parameters whose gradients
    are this rank's part of them.
    """
    for name, placement in placements.items():
        module.register_parameter(name, ranks.part(module.get_parameter(name), placement))

    def local(name: str, parameter: Tensor) -> Tensor:
        own = ranks.local(parameter, partial=name in of_parts or name in added_once)
        if name in added_once and ranks.rank:
            own = own * 0
        return in_shape(name, own)

    compute_with(module, local)


def compute_with(
    module: nn.Module, local: Callable[[str, Tensor], Tensor], owners: Sequence[nn.Module] | None = None
) -> None:
    """Let the module's forward pass see `local(name, parameter)` in place of each parameter of `owners`, by default its own."""
    parts = [part for part in ([module] if owners is None else owners) if part._parameters]

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        own = [(part, dict(part._parameters)) for part in parts]
        try:
            for part, parameters in own:
                for name, parameter in parameters.items():
                    if parameter is not None:
                        part._parameters[name] = cast(nn.Parameter, local(name, parameter))
            return forward(*given, **options)
        finally:
            for part, parameters in own:
                part._parameters.update(parameters)

    _wrap(module, around)


def flatten_experts(layer: nn.Module) -> None:
    """Let experts that no rank shares compute with their stacked gates and ups in transformers' shape."""
    for module in layer.modules():
        if stacks_experts(module) and not isinstance(module.get_parameter("down_proj"), DTensor):
            compute_with(module, in_shape)


def in_shape(name: str, parameter: Tensor) -> Tensor:
    """Return stacked gates and ups of experts in the shape that transformers computes with."""
    return parameter.flatten(1, 2) if name == "gate_up_proj" and parameter.dim() == 4 else parameter


def replicate(module: nn.Module, ranks: Ranks, *, partial: bool) -> None:
    """Hold the module's own parameters whole on every rank. `partial`: each rank computes with a part of the tokens."""
    placements: dict[str, Placement] = {name: Replicate() for name, _ in module.named_parameters(recurse=False)}
    if placements:
        _run_locally(module, placements, set(), ranks, of_parts=placements if partial else ())


def _norm_over_ranks(module: nn.Module, ranks: Ranks) -> None:
    """Normalise columns that are divided over ranks, by the mean of all of them, and with this rank's weights."""
    if not isinstance(ranks, MeshRanks):
        move_input(module, GATHER_COLUMNS, ranks)
        move_output(module, SLICE_COLUMNS, ranks)
        return
    mesh = ranks.mesh
    for name, parameter in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, ranks.part(parameter, Shard(0)))

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        divided = DTensor.from_local(given[0], mesh, [Shard(-1)], run_check=False)
        return forward(divided, *given[1:], **options).redistribute(placements=[Shard(-1)]).to_local()

    _wrap(module, around)


def _return_on_first_rank(module: nn.Module, ranks: Ranks) -> None:
    """Let other ranks than the first return zeros, so that a sum over all of them has the output once."""

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        output = forward(*given, **options)
        return output * 0 if ranks.rank else output

    _wrap(module, around)


def _share_rotary_columns(module: nn.Module, columns: int, ranks: Ranks) -> None:
    """Sum the gradient of the last columns of the output, which go to this rank's heads without a projection."""

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        output = forward(*given, **options)
        latent, rotary = output.split([output.shape[-1] - columns, columns], dim=-1)
        return torch.cat([latent, SUM_GRADIENTS(rotary, ranks)], dim=-1)

    _wrap(module, around)


def _count_own_heads(module: nn.Module, tp: int) -> None:
    """Tell an attention module how many heads its rank has, where its code counts them by itself."""
    counts = _LINEAR_HEAD_COUNTS if is_linear_attention(module) else ()
    for name in _STATE_SPACE_COUNTS if is_state_space(module) else counts:
        setattr(module, name, getattr(module, name) // tp)
    shared: Any = getattr(module, "config", None)
    if shared is None or not hasattr(shared, "num_attention_heads") or not type(module).__name__.endswith("Attention"):
        return
    own = copy.copy(shared)
    own.num_attention_heads = shared.num_attention_heads // tp
    if getattr(shared, "num_key_value_heads", None):
        own.num_key_value_heads = shared.num_key_value_heads // tp
    module.config = own
    for name in _HEAD_COUNTS:
        if type(getattr(module, name, None)) is int:
            setattr(module, name, getattr(module, name) // tp)


def move_input(module: nn.Module, move: Move, ranks: Ranks, *, every: bool = False) -> None:
    """Move the hidden states that a module is given; `every`: and the other real numbers, weights of experts."""

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if every:
            moved = tuple(move(value, ranks) if _is_real(value) else value for value in given)
            return forward(*moved, **{name: move(v, ranks) if _is_real(v) else v for name, v in options.items()})
        if "hidden_states" in options:
            return forward(*given, **{**options, "hidden_states": move(options["hidden_states"], ranks)})
        return forward(move(given[0], ranks), *given[1:], **options)

    _wrap(module, around)


def move_output(module: nn.Module, move: Move, ranks: Ranks) -> None:
    """Move the hidden states that a module returns, alone or first of several values."""

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        output = forward(*given, **options)
        if isinstance(output, tuple):
            return (move(output[0], ranks), *output[1:])
        return move(output, ranks)

    _wrap(module, around)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _wrap(module: nn.Module, around: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
    forward = module.forward

    def wrapped(*given: Any, **options: Any) -> Any:
        return around(forward, given, options)

    module.forward = wrapped


def enter_first_layer(layer: nn.Module, ranks: Ranks) -> None:
    """Give the first layer this rank's part of the sequence. What runs before it runs on the whole sequence."""

    def hook(_module: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if "hidden_states" in options:
            return given, {**options, "hidden_states": SLICE_SEQUENCE(options["hidden_states"], ranks)}
        return (SLICE_SEQUENCE(given[0], ranks), *given[1:]), options

    layer.register_forward_pre_hook(hook, with_kwargs=True)  # outside what is recomputed


def leave_last_layer(layer: nn.Module, ranks: Ranks) -> None:
    """Gather the whole sequence after the last layer, where what follows needs it."""

    def hook(_module: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (GATHER_SEQUENCE(output[0], ranks), *output[1:])
        return GATHER_SEQUENCE(output, ranks)

    layer.register_forward_hook(hook)


def divide_embedding(embedding: nn.Module, ranks: Ranks) -> None:
    """Give each rank some rows of the vocabulary. The whole hidden states come out on every rank.

    A rank looks up its own tokens; others give zeros. A padding row, whose gradient is dropped, stays one on its rank.
    """
    assert isinstance(embedding, nn.Embedding)
    rows = -(-embedding.num_embeddings // ranks.size)
    first = rows * ranks.rank
    padding = embedding.padding_idx
    own_padding = padding is not None and first <= padding < first + rows
    embedding.padding_idx = padding - first if padding is not None and own_padding else None
    _run_locally(embedding, {"weight": Shard(0)}, set(), ranks, of_parts=())

    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        tokens = given[0] - first
        missing = (tokens < 0) | (tokens >= rows)
        looked_up = forward(tokens.masked_fill(missing, 0), *given[1:], **options)
        return SUM(looked_up.masked_fill(missing[..., None], 0), ranks)

    _wrap(embedding, around)


def divide_head(head: nn.Module, ranks: Ranks, *, given: Move | None) -> None:
    """Give each rank the logits of some rows of the vocabulary. `given` moves the head's input, None where it is whole."""
    placements: dict[str, Placement] = {name: Shard(0) for name, _ in head.named_parameters(recurse=False)}
    _run_locally(head, placements, set(), ranks, of_parts=())
    if given is not None:
        move_input(head, given, ranks)
