"""The table of Megatron-Core 0.16: Megatron-LM's command line and Megatron Bridge's configuration spell the same names.

Names are those of megatron-core 0.16.1's configurations (model_parallel_config.py, transformer_config.py,
distributed_data_parallel_config.py, optimizer_config.py) and of Megatron-LM's arguments.py.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from shardwright.base import SpecError
from shardwright.costmodel import StageLayers, read_layout
from shardwright.exports.choices import Choices
from shardwright.exports.text import Keys
from shardwright.specs import even_stages

from .rows import Assumed, Count, Joint, Named, Row, Switch

_LINEAR = {"fp8": ("hybrid", "delayed"), "mxfp8": ("hybrid", "mxfp8")}
_GRAPHS = {
    "none": ("none", []),
    "attention": ("transformer_engine", ["attn"]),
    "router": ("transformer_engine", ["moe_router"]),
    "attention+router": ("transformer_engine", ["attn", "moe_router"]),
    "whole": ("local", ["full_iteration"]),
}
_ALLGATHER = "allgather"


def _data_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """ZeRO-1 is the distributed optimizer, over all data-parallel ranks or in several instances."""
    if max(choices["zero_stage"]) == 0 and not choices["offload_optimizer"]:
        return {}
    instances = choices["dp_replicate"]
    several = {"num_distributed_optimizer_instances": instances} if instances > 1 else {}
    return {"use_distributed_optimizer": True, **several}


def _data_choices(keys: Keys, found: Choices) -> Choices:
    instances = keys.count("num_distributed_optimizer_instances", 1)
    if not keys.switch("use_distributed_optimizer"):
        if instances > 1:
            raise keys.refused("num_distributed_optimizer_instances", "needs use_distributed_optimizer")
        return {"zero_stage": 0}
    return {"zero_stage": 1, "dp_replicate": instances}


def _sequence_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Without tensor parallelism Megatron turns it off, and says so."""
    return {"sequence_parallel": True} if choices["tp"] > 1 and choices["sequence_parallel"] else {}


def _context_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if choices["cp"] == 1:
        return {}
    kind = _CONTEXT[choices["context_parallel"]]
    degree = choices["ulysses_degree"]
    sizes = {"hierarchical_context_parallel_sizes": [degree, choices["cp"] // degree]} if kind == "a2a+p2p" else {}
    return {"context_parallel_size": choices["cp"], "cp_comm_type": kind, **sizes}


_CONTEXT = {"ring": "p2p", "all-gather": "all_gather", "ulysses": "a2a", "ulysses-ring": "a2a+p2p"}


def _context_choices(keys: Keys, found: Choices) -> Choices:
    """The first of the sizes is that of neighbouring ranks, which trade heads (Transformer Engine, context_parallel.py)."""
    cp = keys.count("context_parallel_size", 1)
    names = {theirs: ours for ours, theirs in _CONTEXT.items()} | {"allgather": "all-gather"}
    kind = keys.one_of("cp_comm_type", names, "ring")
    sizes = keys.take("hierarchical_context_parallel_sizes")
    read: Choices = {"cp": cp, "context_parallel": kind, "ulysses_degree": 1}
    if kind != "ulysses-ring" or cp == 1:
        return read
    try:
        first, second = (int(size) for size in sizes)
    except (TypeError, ValueError):
        raise keys.wrong("hierarchical_context_parallel_sizes", "the two sizes of a2a+p2p, such as 2 4") from None
    if first * second != cp:
        raise keys.wrong(
            "hierarchical_context_parallel_sizes", f"two sizes whose product is context_parallel_size {cp}"
        )
    return read | {"ulysses_degree": first}


def _expert_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if not choices["experts"]:
        return {}
    dedicated = choices["ep"] > 1 and choices["expert_dispatch"] == "deduplicated"
    dispatcher: dict[str, Any] = {"moe_token_dispatcher_type": "alltoall"}
    if dedicated:
        dispatcher = {"moe_token_dispatcher_type": "flex", "moe_flex_dispatcher_backend": "deepep"}
    degrees = {"expert_model_parallel_size": choices["ep"], "expert_tensor_parallel_size": choices["etp"]}
    return {
        key: value for key, value in degrees.items() if value != (1 if key.startswith("expert_m") else choices["tp"])
    } | dispatcher


def _expert_choices(keys: Keys, found: Choices) -> Choices:
    ep = keys.count("expert_model_parallel_size", 1)
    etp = keys.count("expert_tensor_parallel_size", found["tp"])
    kind = keys.take("moe_token_dispatcher_type", _ALLGATHER)
    backend = keys.take("moe_flex_dispatcher_backend", "deepep")
    deepep = keys.switch("moe_enable_deepep")
    if ep == 1:
        if etp != found["tp"] and found["tp"] > 1:
            raise keys.refused(
                "expert_tensor_parallel_size",
                f"{etp} differs from tp {found['tp']} and there is no expert parallelism: not modelled",
            )
        return {"ep": 1}
    if kind == _ALLGATHER:
        raise keys.refused(
            "moe_token_dispatcher_type",
            "is allgather (its default), which is not modelled; give alltoall, or flex with DeepEP",
        )
    if kind not in ("alltoall", "flex") or (kind == "flex" and backend not in ("deepep", "hybridep")):
        raise keys.refused(
            "moe_token_dispatcher_type", f"{kind} {backend} is not understood; understood: alltoall, flex"
        )
    dispatch = "deduplicated" if kind == "flex" or deepep else "all-to-all"
    return {"ep": ep, "etp": etp, "expert_dispatch": dispatch}


def _recompute_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """All layers alike, or the first N of each stage in full (block)."""
    policies = choices["recompute"]
    kinds = set(policies)
    if kinds == {"none"}:
        return {}
    if "selective" in kinds:
        modules = list(choices["recompute_modules"])
        named = {"recompute_modules": modules} if modules else {}
        return {"recompute_granularity": "selective", **named}
    if kinds == {"full"}:
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    most = max(part.count("full") for part in _by_stage(policies, choices["stage_layers"]))
    return {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": most}


def _by_stage(policies: tuple[str, ...], parts: tuple[int, ...]) -> list[tuple[str, ...]]:
    found, first = [], 0
    for part in parts:
        found.append(policies[first : first + part])
        first += part
    return found


def _recompute_choices(keys: Keys, found: Choices) -> Choices:
    legacy = keys.switch("recompute_activations")
    kind = keys.one_of(
        "recompute_granularity", {"full": "full", "selective": "selective"}, "selective" if legacy else "none"
    )
    method = keys.take("recompute_method")
    number = keys.count("recompute_num_layers", None)
    modules = keys.take("recompute_modules", [])
    modules = [modules] if isinstance(modules, str) else modules
    if kind == "selective":
        return {"recompute": "selective", "recompute_modules": tuple(modules)}
    if kind == "none":
        return {"recompute": "none"}
    if method == "uniform" and number in (1, None):
        return {"recompute": "full"}
    if method == "block" and number:
        parts = [min(number, part) for part in found["stage_layers"]]
        policies = (["full"] * n + ["none"] * (part - n) for n, part in zip(parts, found["stage_layers"], strict=True))
        return {"recompute": tuple(policy for stage in policies for policy in stage)}
    if method == "uniform":
        raise keys.refused(
            "recompute_num_layers", f"{number} checkpoints {number} layers as one, which is not modelled; give 1"
        )
    raise keys.refused("recompute_method", "is uniform or block where recompute_granularity is full")


def _stage_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """An even pipeline by its degrees, any other by its layout."""
    pp, parts, mtp = choices["pp"], choices["stage_layers"], choices["mtp_layers"]
    if pp == 1:
        return {}
    sizes: dict[str, Any] = {"pipeline_model_parallel_size": pp}
    rounds = len(parts) // pp
    if len(set(parts)) == 1 and choices["mtp_stage"] is None:
        return sizes | ({"num_virtual_stages_per_pipeline_rank": rounds} if rounds > 1 else {})
    place = len(parts) - 1 if choices["mtp_stage"] is None else choices["mtp_stage"]
    symbols = [_repeated("t", part) + "m" * (mtp if index == place else 0) for index, part in enumerate(parts)]
    return sizes | {"pipeline_model_parallel_layout": _short_layout(_ended(symbols))}


def _repeated(symbol: str, count: int) -> str:
    return f"{symbol}*{count}" if count > 2 else symbol * count


def _short_layout(stages: list[str]) -> str:
    """Equal neighbours as `(t*8|)*3`: the parser writes parentheses out first, and single symbols then
    (pipeline_parallel_layer_layout.py, parse_str_to_list)."""
    written = []
    for stage, same in groupby(f"{stage}|" for stage in stages[:-1]):
        count = len(list(same))
        written.append(f"({stage})*{count}" if count > 1 else stage)
    return "".join(written) + stages[-1]


def _ended(stages: list[str]) -> list[str]:
    """The embedding comes first and the loss last."""
    return ["E" + stages[0], *stages[1:-1], stages[-1] + "L"]


def _stage_choices(keys: Keys, found: Choices) -> Choices:
    pp, layers = keys.count("pipeline_model_parallel_size", 1), found["layer_count"]
    layout = keys.take("pipeline_model_parallel_layout")
    rounds = _rounds(keys, pp, layers)
    if layout is not None:
        stages = read_layout(str(layout), layers=layers, mtp_layers=found["mtp_layers"], pp=pp)
        parts = [stage.layers for stage in stages]
        return {"pp": pp, **_schedule(pp, len(parts)), "stage_layers": tuple(parts), "mtp_stage": _mtp_stage(stages)}
    parts = _dealt(keys, pp * rounds, layers)
    return {"pp": pp, **_schedule(pp, len(parts)), "stage_layers": tuple(parts), "mtp_stage": None}


def _mtp_stage(stages: tuple[StageLayers, ...]) -> int | None:
    held = [index for index, stage in enumerate(stages) if stage.mtp_layers]
    if len(held) > 1:
        raise SpecError(f"stages {held} hold multi-token prediction layers, and one may; put all on one stage")
    return held[0] if held and held[0] != len(stages) - 1 else None


def _schedule(pp: int, stages: int) -> Choices:
    return {"schedule": "interleaved-1f1b" if stages > pp else "1f1b"}


def _rounds(keys: Keys, pp: int, layers: int) -> int:
    """Stages of each rank, by the number of them or by the layers of each."""
    of_rank = keys.count("num_virtual_stages_per_pipeline_rank", None)
    of_bridge = keys.count("virtual_pipeline_model_parallel_size", None)
    each = keys.count("num_layers_per_virtual_pipeline_stage", None)
    if each is None:
        return int(of_rank or of_bridge or 1)
    if layers % (pp * each):
        raise keys.wrong(
            "num_layers_per_virtual_pipeline_stage", f"a number that divides the {layers} layers over pp {pp}"
        )
    return int(layers // (pp * each))


def _dealt(keys: Keys, stages: int, layers: int) -> list[int]:
    """Layers of each stage without a layout: alike, but fewer at ends that are told or counted."""
    first = keys.count("decoder_first_pipeline_num_layers", None) or keys.count(
        "num_layers_in_first_pipeline_stage", None
    )
    last = keys.count("decoder_last_pipeline_num_layers", None) or keys.count("num_layers_in_last_pipeline_stage", None)
    counted = [keys.switch(f"account_for_{end}_in_pipeline_split") for end in ("embedding", "loss")]
    if stages == 1:
        return [layers]
    if any(counted):
        each, rest = divmod(layers + sum(counted), stages)
        if rest:
            raise SpecError(
                f"{keys.source}: {layers} layers and {sum(counted)} of the ends do not divide over {stages} stages"
            )
        parts = [each] * stages
        parts[0] -= counted[0]
        parts[-1] -= counted[1]
        return parts
    ends = [end for end in (first, last) if end is not None]
    middle = stages - len(ends)
    each, rest = divmod(layers - sum(ends), middle) if middle else (0, layers - sum(ends))
    if rest:
        near = even_stages(layers, stages)
        raise SpecError(
            f"{keys.source}: {layers} layers do not divide over {stages} stages; give pipeline_model_parallel_layout, such as "
            f"{_short_layout(_ended([_repeated('t', part) for part in near]))}"
        )
    return [*([first] if first else []), *[each] * middle, *([last] if last else [])]


def _linear_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    linear = choices["linear"]
    if linear == "nvfp4":
        return {"fp4_format": "e2m1", "fp4_recipe": "nvfp4"}
    if linear is None:
        return {}
    form, recipe = _LINEAR.get(linear, _LINEAR["fp8"])
    gathered = {"fp8_param_gather": True} if choices["gather"] == "fp8" else {}
    return {"fp8_format": form, "fp8_recipe": recipe, **gathered}


def _linear_choices(keys: Keys, found: Choices) -> Choices:
    form = keys.one_of("fp8_format", {"hybrid": "fp8", "e4m3": "fp8"}, None)
    recipe = keys.one_of(
        "fp8_recipe", {"delayed": "fp8", "tensorwise": "fp8", "mxfp8": "mxfp8", "blockwise": None}, "fp8"
    )
    four = keys.one_of("fp4_format", {"e2m1": "nvfp4"}, None)
    keys.one_of("fp4_recipe", {"nvfp4": "nvfp4"}, "nvfp4")
    gathers = keys.switch("fp8_param_gather")
    if form is not None and recipe is None:
        raise keys.refused("fp8_recipe", "blockwise is not modelled; modelled: delayed, tensorwise, mxfp8")
    linear = four or (recipe if form else None)
    return {"linear": linear, "gather": "fp8" if gathers and linear == "fp8" else None}


def _edge_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Layers that stay in 16 bits lie at the start and the end."""
    count = choices["high_precision_layers"]
    start = (count + 1) // 2
    if not count:
        return {}
    return {
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": start,
        "num_layers_at_end_in_bf16": count - start,
    }


def _edge_choices(keys: Keys, found: Choices) -> Choices:
    ends = [keys.whole(f"num_layers_at_{end}_in_bf16", 1) for end in ("start", "end")]
    on = keys.switch("first_last_layers_bf16") and found["linear"] is not None
    return {"high_precision_layers": sum(ends) if on else 0}


def _offload_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """arguments.py lets the host take a part only beside the precision-aware distributed optimizer."""
    share = choices["offload_optimizer"]
    if not share:
        return {}
    needed = {"optimizer_cpu_offload": True, "use_precision_aware_optimizer": True}
    return needed | {"optimizer_offload_fraction": float(share)}


def _offload_choices(keys: Keys, found: Choices) -> Choices:
    share = keys.share("optimizer_offload_fraction", 1.0)
    if share > 1:
        raise keys.wrong("optimizer_offload_fraction", "a share from 0 to 1")
    keys.switch("use_precision_aware_optimizer")
    for key in ("main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype"):
        keys.one_of(key, {"fp32": "fp32"}, "fp32")
    return {"offload_optimizer": share if keys.switch("optimizer_cpu_offload") else 0}


def _optimizer_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Plain SGD keeps no state, and Megatron's has momentum unless it is 0."""
    return {"optimizer": "sgd", "sgd_momentum": 0.0} if choices["optimizer"] == "sgd" else {}


def _optimizer_choices(keys: Keys, found: Choices) -> Choices:
    name = keys.one_of("optimizer", {"adam": "adamw", "sgd": "sgd"}, "adamw")
    if keys.share("sgd_momentum", 0.9) and name == "sgd":
        raise keys.refused(
            "sgd_momentum", "is not 0 (its default is 0.9), and momentum is not modelled; give 0, or optimizer adam"
        )
    return {"optimizer": name}


def _graph_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    implementation, scope = _GRAPHS[choices["cuda_graphs"]]
    return {"cuda_graph_impl": implementation, "cuda_graph_scope": scope} if scope else {}


def _graph_choices(keys: Keys, found: Choices) -> Choices:
    implementation = keys.take("cuda_graph_impl", "none")
    scope = keys.take("cuda_graph_scope", [])
    scope = sorted([scope] if isinstance(scope, str) else scope)
    for name, (theirs, parts) in _GRAPHS.items():
        if implementation == theirs and (sorted(parts) == scope or theirs == "none"):
            return {"cuda_graphs": name}
    raise keys.refused(
        "cuda_graph_scope",
        f"{' '.join(scope) or 'full'} with cuda_graph_impl {implementation} is not modelled; modelled: attn and moe_router with "
        "transformer_engine, full_iteration with local",
    )


def _capacity_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    capacity = choices["expert_capacity"]
    return {} if capacity is None else {"moe_expert_capacity_factor": float(capacity)}


def _capacity_choices(keys: Keys, found: Choices) -> Choices:
    capacity = keys.share("moe_expert_capacity_factor", 0.0)
    return {"expert_capacity": capacity or None}


PLACE: tuple[Row, ...] = (
    Count("micro_batch", "micro_batch_size", None),
    Count("global_batch", "global_batch_size", None),
    Count("seq_len", "seq_length", None),
    Count("tp", "tensor_model_parallel_size"),
    Joint(_sequence_keys, lambda keys, found: {"sequence_parallel": keys.switch("sequence_parallel")}),
    Joint(_context_keys, _context_choices),
    Count("mtp_layers", "mtp_num_layers", 0),
    Joint(_stage_keys, _stage_choices),
    Joint(_expert_keys, _expert_choices),
    Joint(_data_keys, _data_choices),
    Named("order", "use_tp_pp_dp_mapping", {"tp-cp-pp-dp": True, "tp-cp-dp-pp": False}, "tp-cp-dp-pp"),
    Joint(_recompute_keys, _recompute_choices),
    Joint(_offload_keys, _offload_choices),
    Count("activation_offload_layers", "cpu_offloading_num_layers", 0),
    Joint(_optimizer_keys, _optimizer_choices),
    Named("attention", "attention_backend", {"flash": "auto", "unfused": "unfused"}, "flash", {"flash": "flash", "fused": "flash", "local": "unfused"}),
    Switch("overlaps_dispatch", "overlap_moe_expert_parallel_comm"),
    Joint(_capacity_keys, _capacity_choices),
    Joint(_graph_keys, _graph_choices),
)  # fmt: skip
"""What both spell alike, in the order in which rows need each other."""

FORMATS: tuple[Row, ...] = (Joint(_linear_keys, _linear_choices), Joint(_edge_keys, _edge_choices))


def _reduces(choices: Mapping[str, Any]) -> bool:
    return bool(choices["dp_replicate"] * choices["dp_shard"] * choices["cp"] > 1)


def _gathers(choices: Mapping[str, Any]) -> bool:
    return bool(max(choices["zero_stage"]) > 0)


def _has_experts(choices: Mapping[str, Any]) -> bool:
    return bool(choices["experts"])


ASSUMED: tuple[Assumed, ...] = (
    Assumed("overlap_grad_reduce", True, _reduces, "gradients are reduced beside the backward pass"),
    Assumed("overlap_param_gather", True, _gathers, "parameters are gathered beside the forward pass"),
    Assumed("tp_comm_overlap", True, lambda all_: bool(all_["tp"] > 1 and all_["sequence_parallel"]), "tensor parallelism communicates beside its matmuls"),
    Assumed("cross_entropy_loss_fusion", True, lambda all_: True, "the loss is one kernel"),
    Assumed("attention_dropout", 0.0, lambda all_: True, "no dropout"),
    Assumed("hidden_dropout", 0.0, lambda all_: True, "no dropout"),
    Assumed("moe_grouped_gemm", True, _has_experts, "experts run as grouped matmuls"),
    Assumed("moe_permute_fusion", True, _has_experts, "tokens are sorted by one kernel"),
)  # fmt: skip
"""What the stacks megatron-core and nemo are described with (stacks.toml)."""
