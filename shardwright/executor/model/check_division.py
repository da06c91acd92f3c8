"""A division over tp is checked before it is used: its sizes, and on a tiny model of the class that it computes the same."""

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Shard
from torch.distributed.tensor.placement_types import Placement
from transformers import PreTrainedConfig, PreTrainedModel

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile

from .division import LayerDivision, Region
from .fused import unfuse
from .hugging_face import DROPOUT_ENDINGS, Skeleton, model_class
from .initial_weights import drawing_from
from .moves import SEQUENCE, Ranks
from .rules import layer_division
from .tensor_parallel import divide_layer, placements_of

_RANKS, _LAYERS, _SEQ, _LARGEST_ERROR = 2, 2, 6, 1e-4
_TINY: Mapping[str, int] = {
    "hidden_size": 160,
    "num_attention_heads": 4,
    "head_dim": 40,  # a quarter, 0.4 and a half of it are even, so that they can be rotated
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "n_inner": 48,
    "vocab_size": 64,
    "word_embed_proj_dim": 160,
    "num_hidden_layers": _LAYERS,
    "first_k_dense_replace": 1,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 40,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 40,
    "n_groups": 2,
    "ssm_state_size": 8,
    "max_position_embeddings": 32,
    "sliding_window": 4,
}


def check_tensor_parallel(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that tensor parallelism of the plan divides the model, and computes what the whole model computes.

    The division is tried on a tiny model of the same class, on threads for ranks. A class that cannot be built that small is
    accepted where transformers' plan states its whole division.

    Raises:
        SpecError: names what tp does not divide, or the module whose result differs.
    """
    plan, name, config = plan_file.plan, plan_file.model_name, skeleton.config
    if plan.sequence_parallel and plan_file.training.seq_len % plan.mesh.tp:
        raise SpecError(
            f"sequence parallelism needs seq_len {plan_file.training.seq_len} divisible by tp {plan.mesh.tp}; plan "
            "without it or change one"
        )
    if plan.mesh.tp == 1:
        return
    _check_sizes(plan.mesh.tp, config, name)
    derived = False
    for index in _distinct_layers(skeleton):
        layer = copy.deepcopy(skeleton.layer(index))
        unfuse(layer, config)
        division = layer_division(skeleton.model, layer, skeleton.structure.layers, name)
        _check_recurrence(layer, division, name)
        _check_parameters(plan.mesh.tp, layer, division, name)
        derived |= any(region.derived for region in division.regions.values())
    try:
        model = tiny_model(skeleton, axis="tp")
    except SpecError:
        if derived:
            raise
        return
    _check_results(skeleton, model, sequence_parallel=plan.sequence_parallel)


def _check_sizes(tp: int, config: PreTrainedConfig, name: str) -> None:
    heads = config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    widths = {
        "attention heads": heads,
        "key-value heads": getattr(config, "num_key_value_heads", None) or heads,
        "feed-forward width": inner or 4 * config.hidden_size,
        "key heads of linear attention": getattr(config, "linear_num_key_heads", None),
        "groups of Mamba-2": getattr(config, "mamba_n_groups", None) or getattr(config, "n_groups", None),
    }
    for what, width in widths.items():
        if isinstance(width, int) and width % tp:
            raise SpecError(f"{name} has {what} {width}, which tp {tp} does not divide; give a divisor of {width}")


def _distinct_layers(skeleton: Skeleton) -> list[int]:
    """Return the first layer of each kind, told apart by the names and shapes of parameters."""
    kinds: dict[tuple[Any, ...], int] = {}
    for index in range(skeleton.layer_count):
        shapes = tuple((key, tuple(value.shape)) for key, value in skeleton.layer(index).named_parameters())
        kinds.setdefault(shapes, index)
    return list(kinds.values())


def _check_recurrence(layer: nn.Module, division: LayerDivision, name: str) -> None:
    """Refuse a state space model that no role divides: every rank would hold and compute all of it."""
    for path, module in layer.named_modules():
        has_state = "A_log" in dict(module.named_parameters(recurse=False))
        if has_state and not any(f"{path}.A_log" in region.roles for region in division.regions.values()):
            raise SpecError(
                f"{name}: '{path}' of a layer, {type(module).__name__}, is not divided over tp; plan with tp 1"
            )


def _check_parameters(tp: int, layer: nn.Module, division: LayerDivision, name: str) -> None:
    for path, placement in placements_of(layer, division).items():
        size = layer.get_parameter(path).shape[placement.dim] if isinstance(placement, Shard) else 0
        if size % tp:
            raise SpecError(
                f"{name}: '{path}' of a layer has {size} columns, which tp {tp} does not divide; give a divisor"
            )


def _check_results(skeleton: Skeleton, model: PreTrainedModel, *, sequence_parallel: bool) -> None:
    calls: list[tuple[int, tuple[Any, ...], dict[str, Any], Tensor]] = []
    layers = model.get_submodule(skeleton.structure.layers)
    for index, layer in enumerate(layers.children()):
        layer.register_forward_hook(_record(calls, index), with_kwargs=True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        try:
            model(input_ids=torch.arange(2 * _SEQ).view(2, _SEQ), use_cache=False)
        except Exception as error:  # whatever the code of a class raises for sizes that it does not expect
            raise _not_tiny(skeleton, error, "tp") from None
        if not torch.equal(before, torch.random.get_rng_state()):
            raise SpecError(
                f"{skeleton.name}: {type(model).__name__} draws random numbers as it trains, which ranks of tp would draw "
                "differently; plan with tp 1"
            )
        for index, given, options, expected in calls:
            layer = next(child for number, child in enumerate(layers.children()) if number == index)
            _check_layer(skeleton, model, layer, _Call(given, options, expected, sequence_parallel))


def _record(calls: list[Any], index: int) -> Callable[..., None]:
    def hook(_module: nn.Module, given: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        calls.append((index, given, options, output[0] if isinstance(output, tuple) else output))

    return hook


class _Call(NamedTuple):
    """What a whole layer was given, and the hidden states that it returned."""

    given: tuple[Any, ...]
    options: dict[str, Any]
    expected: Tensor
    sequence_parallel: bool

    def of_rank(self, rank: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.sequence_parallel:
            return self.given, self.options
        if self.given:
            return (self._part(self.given[0], rank), *self.given[1:]), self.options
        return (), {**self.options, "hidden_states": self._part(self.options["hidden_states"], rank)}

    def error(self, outputs: list[Tensor]) -> float:
        """Return the largest relative error of a rank's output."""
        parts = [self._part(self.expected, rank) if self.sequence_parallel else self.expected for rank in range(_RANKS)]
        return max(float((own - part).norm() / part.norm()) for own, part in zip(outputs, parts, strict=True))

    @staticmethod
    def _part(hidden: Tensor, rank: int) -> Tensor:
        return hidden.chunk(_RANKS, SEQUENCE)[rank]


def _check_layer(skeleton: Skeleton, model: PreTrainedModel, layer: nn.Module, call: _Call) -> None:
    """Divide one region at a time, and compare the layer's output with that of the whole layer."""
    layer._forward_hooks.clear()
    split = copy.deepcopy(layer)
    unfuse(split, model.config)
    division = layer_division(model, split, skeleton.structure.layers, skeleton.name)
    for path in division.regions:
        one = LayerDivision({key: region if key == path else Region() for key, region in division.regions.items()})
        try:
            error = call.error(_on_threads(split, one, call))
        except Exception as problem:  # whatever a layer's code raises for sizes that it does not expect
            raise _refusal(skeleton, path, " ".join(str(problem).split())[:120]) from None
        if not error <= _LARGEST_ERROR:
            raise _refusal(skeleton, path, f"its result is {error:.1%} off")


def _refusal(skeleton: Skeleton, path: str, why: str) -> SpecError:
    kind = type(skeleton.model).__name__
    return SpecError(
        f"{skeleton.name}: '{skeleton.structure.layers}.*.{path}' of {kind} cannot be divided over tp ({why}); plan with tp 1"
    )


def _on_threads(layer: nn.Module, division: LayerDivision, call: _Call) -> list[Tensor]:
    results: dict[int, Any] = {}
    meeting = _Meeting()

    def run(rank: int) -> None:
        try:
            own = copy.deepcopy(layer)
            divide_layer(own, division, _ThreadRanks(rank, meeting), sequence_parallel=call.sequence_parallel)
            given, options = call.of_rank(rank)
            with torch.no_grad():
                output = own(*given, **options)
            results[rank] = output[0] if isinstance(output, tuple) else output
        except Exception as error:
            results[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(_RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results.values() if isinstance(result, Exception)]
    own_errors = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (own_errors or errors)[0]
    return [results[rank] for rank in range(_RANKS)]


class _Meeting:
    def __init__(self) -> None:
        self.barrier = threading.Barrier(_RANKS, timeout=60)
        self.tensors: dict[int, Tensor] = {}


class _ThreadRanks:
    """Ranks as threads of this process, whose tensors meet in memory."""

    size = _RANKS

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self._meeting = rank, meeting

    def _all(self, tensor: Tensor) -> list[Tensor]:
        self._meeting.tensors[self.rank] = tensor
        self._meeting.barrier.wait()
        found = [self._meeting.tensors[rank] for rank in range(self.size)]
        self._meeting.barrier.wait()
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._all(tensor)).sum(0)

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        return torch.cat(self._all(tensor), dim)

    def scatter(self, tensor: Tensor, dim: int) -> Tensor:
        return self.sum(tensor).chunk(self.size, dim)[self.rank]

    def part(self, parameter: nn.Parameter, placement: Placement) -> nn.Parameter:
        if not isinstance(placement, Shard):
            return parameter
        return nn.Parameter(parameter.detach().chunk(self.size, placement.dim)[self.rank].contiguous())

    def local(self, parameter: Tensor, *, partial: bool) -> Tensor:
        return parameter


_checked: Ranks = _ThreadRanks(0, _Meeting())  # the two kinds of ranks are one type


def tiny_model(skeleton: Skeleton, *, axis: str, fix: str | None = None) -> PreTrainedModel:
    """Build a model of the same class with two narrow layers on the CPU, with random weights, to check `axis` with. `fix`: what
    to plan where it cannot be built, by default the axis with degree 1.

    Raises:
        SpecError: the class cannot be built that small.
    """
    try:
        config = tiny_config(skeleton.config)
        build: Any = model_class(config)._from_config
        with drawing_from(0, torch.device("cpu")):
            model: PreTrainedModel = build(config, attn_implementation="eager", dtype=torch.float32)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
        return model
    except Exception as error:
        raise _not_tiny(skeleton, error, axis, fix) from None


def _not_tiny(skeleton: Skeleton, error: Exception, axis: str, fix: str | None = None) -> SpecError:
    detail = " ".join(str(error).split())[:120]
    return SpecError(
        f"{skeleton.name}: a tiny {type(skeleton.model).__name__} to check {axis} with does not run ({detail}); "
        f"{fix or f'plan with {axis} 1'}"
    )


def tiny_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration of the same class and flags, of two narrow layers."""
    given = config.to_dict()
    given |= {key: 0.0 for key, rate in given.items() if key.endswith(DROPOUT_ENDINGS) and isinstance(rate, float)}
    names = {canonical: own for canonical, own in (config.attribute_map or {}).items()}
    tiny = dict(_TINY)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None)
    grouped = (kv_heads or heads) < heads
    tiny["num_key_value_heads"] = tiny["num_kv_heads"] = 2 if grouped else 4
    if type(given.get("qk_rope_head_dim")) is int:  # what DeepSeek's rotary tables take for the size of a head
        tiny["head_dim"] = tiny["qk_rope_head_dim"]
    for key, value in tiny.items():
        own = names.get(key, key)
        if type(given.get(own)) is int:
            given[own] = value
    for key in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(given.get(key), list):
            given[key] = given[key][:_LAYERS]
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(given.get(key), dict):
            given[key] = _default_rotation(given[key])
    given.update({key: None for key in ("pad_token_id", "bos_token_id", "eos_token_id") if key in given})
    return type(config).from_dict(given)


def _default_rotation(given: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, dict) for value in given.values()):
        return {key: _default_rotation(value) if isinstance(value, dict) else value for key, value in given.items()}
    kept = {key: value for key, value in given.items() if key in ("rope_theta", "partial_rotary_factor")}
    return {"rope_type": "default", **kept}
