"""NeMo's present form, Megatron Bridge 0.3: the parts of its ConfigContainer that a plan sets, as YAML over a recipe.

A recipe has values of its own for each key, so every key is written, also where it has Megatron-Core's default.
"""

from collections.abc import Mapping
from typing import Any

from shardwright.costmodel import PlanFile
from shardwright.exports.choices import WORKLOAD, Choices, Found, Job, Target, choices_of, facts_of
from shardwright.exports.text import Keys, read_yaml_text, yaml_text

from .mcore import ASSUMED, FORMATS, PLACE
from .rows import LACKING, Joint, Row, known_keys, lacking, read_rows, write_rows

_NEMO, _CORE = "nemo", "megatron-core-0.15"
_PRECISION = "megatron.bridge.training.mixed_precision.MixedPrecisionConfig"
_SECTIONS = {
    "train": "micro_batch_size global_batch_size",
    "ddp": "use_distributed_optimizer num_distributed_optimizer_instances overlap_grad_reduce overlap_param_gather grad_reduce_in_fp32",
    "dist": "use_tp_pp_dp_mapping",
    "comm_overlap": "tp_comm_overlap",
    "optimizer": "optimizer sgd_momentum optimizer_cpu_offload optimizer_offload_fraction use_precision_aware_optimizer "
    "main_grads_dtype main_params_dtype exp_avg_dtype exp_avg_sq_dtype",
    "mixed_precision": "bf16 fp16 fp8_recipe fp4_recipe fp8_param_gather first_last_layers_bf16 num_layers_at_start_in_bf16 "
    "num_layers_at_end_in_bf16",
}
_RENAMED = {
    "num_virtual_stages_per_pipeline_rank": "model.virtual_pipeline_model_parallel_size",
    "fp8_format": "mixed_precision.fp8",
    "fp4_format": "mixed_precision.fp4",
}
_PATHS = {name: f"{section}.{name}" for section, names in _SECTIONS.items() for name in names.split()} | _RENAMED

_DEFAULTS: dict[str, Any] = {
    "tensor_model_parallel_size": 1,
    "sequence_parallel": False,
    "context_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "num_virtual_stages_per_pipeline_rank": None,
    "pipeline_model_parallel_layout": None,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": None,
    "use_tp_pp_dp_mapping": False,
    "recompute_granularity": None,
    "recompute_method": None,
    "recompute_num_layers": None,
    "recompute_modules": None,
    "cpu_offloading_num_layers": 0,
    "overlap_moe_expert_parallel_comm": False,
    "cuda_graph_impl": "none",
    "use_distributed_optimizer": False,
    "optimizer": "adam",
    "optimizer_cpu_offload": False,
    "mtp_num_layers": None,
    "moe_router_fusion": False,
}
_RECIPES: dict[str, dict[str, Any]] = {
    "bf16_mixed": {"bf16": True, "grad_reduce_in_fp32": True},
    "fp16_mixed": {"fp16": True, "grad_reduce_in_fp32": False},
    "bf16_with_fp8_delayed_scaling_mixed": {"fp8": "hybrid", "fp8_recipe": "delayed", "fp8_param_gather": True},
    "bf16_with_fp8_current_scaling_mixed": {
        "fp8": "hybrid",
        "fp8_recipe": "tensorwise",
        "fp8_param_gather": True,
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": 1,
        "num_layers_at_end_in_bf16": 1,
    },
    "bf16_with_fp8_subchannel_scaling_mixed": {"fp8": "hybrid", "fp8_recipe": "blockwise"},
    "bf16_with_mxfp8_mixed": {"fp8": "e4m3", "fp8_recipe": "mxfp8", "fp8_param_gather": True},
    "bf16_with_nvfp4_mixed": {"fp4": "e2m1", "fp4_recipe": "nvfp4"},
}
"""Named recipes of mixed_precision.py; those that begin with bf16 have fp32 gradients."""


def path_of(name: str) -> str:
    """A name of Megatron-Core as Megatron Bridge nests it."""
    return name if "." in name else _PATHS.get(name, f"model.{name}")


def _format_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    compute = choices["compute"]
    if compute not in ("bf16", "fp16"):
        return {}
    return {compute: True, "mixed_precision.grad_reduce_in_fp32": choices["gradients"] == "fp32"}


def _format_choices(keys: Keys, found: Choices) -> Choices:
    bf16, fp16 = keys.switch("bf16"), keys.switch("fp16")
    of_ddp = keys.switch("grad_reduce_in_fp32", True)
    wide = keys.switch("mixed_precision.grad_reduce_in_fp32", of_ddp)
    compute = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    return {"compute": compute, "parameters": "fp32", "gradients": "fp32" if wide or compute == "fp32" else "bf16"}


def _stack_choices(keys: Keys, found: Choices) -> Choices:
    """NeMo's stack reduces gradients in bf16, as its performance recipes do; otherwise it is Megatron-Core as it is."""
    fused = keys.switch("moe_router_fusion")
    if found["gradients"] == "bf16":
        return {"stack": _NEMO}
    return {"stack": _CORE if fused or not found["experts"] else "megatron-core"}


def _stack_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"moe_router_fusion": True} if choices["experts"] and choices["stack"] == _CORE else {}


ROWS: tuple[Row, ...] = (*PLACE, *FORMATS, Joint(_format_keys, _format_choices), Joint(_stack_keys, _stack_choices))


def _write(plan_file: PlanFile) -> str:
    choices = choices_of(plan_file)
    written = {**_DEFAULTS, **write_rows(ROWS, choices), **write_rows(ASSUMED, choices)}
    nested = {path_of(name) if "." not in name else name: value for name, value in written.items()}
    optimizer = {"optimizer.use_distributed_optimizer": written["use_distributed_optimizer"]}
    sequence = {"dataset.sequence_length": choices["seq_len"]}
    offloads = {"model.cpu_offloading": True} if choices["activation_offload_layers"] else {}
    formats = {key: value for key, value in nested.items() if key.startswith("mixed_precision.")}
    others = {key: value for key, value in nested.items() if key not in formats}
    precision = _precision(formats) if formats else {"mixed_precision": None}
    values = {**others, **optimizer, **sequence, **offloads, **precision}
    return yaml_text(
        dict(sorted(values.items(), key=lambda item: item[0].partition(".")[0])),
        f"Megatron Bridge 0.3.1 (NeMo): {plan_file.model_name} on {plan_file.cluster.name}, {plan_file.plan.mesh.ranks} ranks.",
        "Values over those of the model's recipe; data, learning rate and saving are the recipe's.",
    )


def _precision(formats: dict[str, Any]) -> dict[str, Any]:
    kind = "torch.bfloat16" if formats.get("mixed_precision.bf16") else "torch.float16"
    dtype = {"_call_": False, "_target_": kind}
    return {
        "mixed_precision._target_": _PRECISION,
        "mixed_precision.params_dtype": dtype,
        "mixed_precision.pipeline_dtype": dict(dtype),
        "mixed_precision.autocast_enabled": False,
        **formats,
    }


def _read(text: str, source: str, job: Job) -> Found:
    document = read_yaml_text(text, source)
    recipe = document.pop("mixed_precision", None)
    if recipe is not None:
        named = Keys({"mixed_precision": str(recipe).replace("-", "_")}, source)
        settings = named.one_of("mixed_precision", _RECIPES, {})
        compute = {"bf16": True} if str(recipe).startswith("bf16") else {"fp16": True}
        document |= {f"mixed_precision.{key}": value for key, value in (compute | settings).items()}
    for name in ("overlap_grad_reduce", "overlap_param_gather"):  # either section has them
        value = document.pop(f"comm_overlap.{name}", None)
        if value is not None:
            document[path_of(name)] = value
    keys = Keys(document, source, place=path_of)
    if job.model is None:
        return Found({})
    found: Choices = facts_of(job.model)
    for size in ("num_layers", "hidden_size"):
        given = keys.count(size, None)
        if given is not None and given != getattr(job.model, "layer_count" if size == "num_layers" else size):
            raise keys.refused(size, f"is {given}, and {job.model.name} differs; give another --model")
    found = read_rows((*ROWS, *ASSUMED), keys, found)
    rows = found.pop(LACKING, ())
    ignored = keys.check_known(known_keys("nemo"))
    return Found(found, lambda choices: lacking(rows, choices, path_of), ignored)


NEMO = Target(
    name="nemo",
    release="Megatron Bridge 0.3.1",
    suffix=".yaml",
    stacks=(_NEMO, _CORE, "megatron-core"),
    axes=frozenset({"pp", "cp", "tp", "ep"}),
    outside=WORKLOAD | {"dispatch_multiprocessors", "ranks"},
    writes=_write,
    reads=_read,
    keys=lambda text: read_yaml_text(text, "nemo"),
)
