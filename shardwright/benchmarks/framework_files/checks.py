"""Each framework's own parser or configuration reads what was written for it; nothing of the framework trains."""

import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.exports import TARGETS, choices_of, express

from .random_plans import random_plan


class Checked(NamedTuple):
    """`package` with its version, or None where it is not installed; the plans that it accepted, why it refused the first, and
    whether it refused a file that was spoiled on purpose."""

    package: str
    version: str | None
    accepted: int = 0
    plans: int = 0
    refusal: str | None = None
    refuses_spoiled: bool = False


def check_target(name: str, plans: int) -> Checked:
    """Write `plans` random plans for a target, hand each to the framework itself, and then one file that is spoiled.

    Raises:
        SpecError: no target has that name.
    """
    if name not in CHECKS:
        raise SpecError(f"target '{name}' has no check; known: {', '.join(CHECKS)}")
    package, check, spoilt = CHECKS[name]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Checked(package, None)
    accepted, refusals, refuses_spoiled = 0, [], False
    for seed in range(plans):
        plan_file = random_plan(name, seed)
        text, _ = express(plan_file, TARGETS[name])
        refusal = _refusal(check, text, plan_file)
        accepted += refusal is None
        refusals += [f"plan {seed}: {refusal}"] if refusal else []
        if spoilt[0] in text and not refuses_spoiled:
            refuses_spoiled = _refusal(check, text.replace(*spoilt), plan_file) is not None
    return Checked(package, version, accepted, plans, refusals[0] if refusals else None, refuses_spoiled)


def _refusal(check: "Check", text: str, plan_file: PlanFile) -> str | None:
    """Why the framework refuses a file; None where it takes it."""
    try:
        with _quiet():
            check(text, plan_file)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The packages print and log what they choose; only what they refuse is wanted."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _same(what: str, given: object, wanted: object) -> None:
    if given != wanted:
        raise ValueError(f"{what} is {given}, and the plan has {wanted}")


def _read_file(text: str, suffix: str, read: Callable[[str], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_text(text, encoding="utf-8")
        return read(str(path))


# Names of arguments.py that Megatron-Core's configurations have under others (core_transformer_config_from_args).
_OF_ARGUMENTS = {
    "num_virtual_stages_per_pipeline_rank": "virtual_pipeline_model_parallel_size",
    "num_experts": "num_moe_experts",
    "fp8_format": "fp8",
    "fp4_format": "fp4",
    "fp8_param_gather": "fp8_param",
    "accumulate_allreduce_grads_in_fp32": "grad_reduce_in_fp32",
}
# Arguments that no configuration of Megatron-Core has: the model's builder, the data and the loop read them (arguments.py).
_LOOP_ARGUMENTS = frozenset(
    {
        "micro_batch_size",
        "global_batch_size",
        "seq_length",
        "vocab_size",
        "max_position_embeddings",
        "position_embedding_type",
        "untie_embeddings_and_output_weights",
        "rotary_base",
        "swiglu",
        "disable_bias_linear",
        "group_query_attention",
        "num_query_groups",
        "use_tp_pp_dp_mapping",
        "grad_reduce_in_bf16",
    }
)


def _megatron(text: str, plan_file: PlanFile) -> None:
    flags = {key.removeprefix("--").replace("-", "_"): value for key, value in TARGETS["megatron"].keys(text).items()}
    named = {_OF_ARGUMENTS.get(key, key): _number(value) for key, value in flags.items()}
    grouped = named["num_query_groups"] if "group_query_attention" in named else None
    model = {
        "gated_linear_unit": "swiglu" in named,
        "add_bias_linear": "disable_bias_linear" not in named,
        "num_query_groups": grouped,
    }
    _core(named, plan_file, extra=model, others=_LOOP_ARGUMENTS)


def _number(value: Any) -> Any:
    if value == "given":
        return True
    if isinstance(value, list):
        return [_number(one) for one in value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _core(named: Mapping[str, Any], plan_file: PlanFile, *, extra: Mapping[str, Any], others: frozenset[str]) -> None:
    """Build Megatron-Core's three configurations from keys by their fields' names."""
    import torch
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.transformer.enums import AttnBackend
    from megatron.core.transformer.transformer_config import TransformerConfig

    kinds = (TransformerConfig, DistributedDataParallelConfig, OptimizerConfig)
    fields = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    unknown = sorted(set(named).difference(*fields) - others)
    if unknown:
        raise ValueError(f"no configuration of Megatron-Core has {', '.join(unknown)}")
    given = [{key: value for key, value in named.items() if key in own and value is not None} for own in fields]
    dtype = torch.bfloat16 if named.get("bf16") else torch.float32
    of_model = {**given[0], **extra, "params_dtype": dtype, "pipeline_dtype": dtype}
    if "attention_backend" in of_model:
        of_model["attention_backend"] = AttnBackend[of_model["attention_backend"]]
    with _transformer_engine():
        config = TransformerConfig(**of_model)
        ddp = DistributedDataParallelConfig(**given[1])
        OptimizerConfig(**{"lr": 1e-4, **given[2]})
    _same("use_distributed_optimizer", ddp.use_distributed_optimizer, bool(given[1].get("use_distributed_optimizer")))
    choices = choices_of(plan_file)
    for field, choice in (
        ("tensor_model_parallel_size", "tp"),
        ("pipeline_model_parallel_size", "pp"),
        ("context_parallel_size", "cp"),
        ("expert_model_parallel_size", "ep"),
    ):
        _same(field, getattr(config, field), choices[choice])
    layout = config.pipeline_model_parallel_layout
    if layout is not None:
        rounds = len(choices["stage_layers"]) // choices["pp"]
        stages = [layout.layout[rank][turn] for turn in range(rounds) for rank in range(choices["pp"])]
        _same(
            "layers by stage",
            tuple(sum(layer.name == "decoder" for layer in stage) for stage in stages),
            choices["stage_layers"],
        )


_KERNELS = ("permute", "permute_with_probs", "sort_chunks_by_index", "sort_chunks_by_index_with_probs", "unpermute")


@contextlib.contextmanager
def _transformer_engine() -> Iterator[None]:
    """Stand in for what a GPU machine has: Transformer Engine's version, and its kernels that sort tokens."""
    from packaging.version import Version

    kernels: dict[str, Any] = {f"fused_{name}": object() for name in _KERNELS}
    with (
        mock.patch("megatron.core.utils.get_te_version", return_value=Version("2.9.0")),
        mock.patch.multiple("megatron.core.transformer.moe.moe_utils", spec=None, create=True, **kernels),
    ):
        yield


def _nemo(text: str, plan_file: PlanFile) -> None:
    """Model, gradients and optimizer by Megatron-Core's configurations; every other key must be a field of Megatron Bridge's,
    whose source is read because its import needs Transformer Engine."""
    found = importlib.util.find_spec("megatron.core")
    assert found is not None
    assert found.origin is not None
    bridge = Path(found.origin).parents[1] / "bridge" / "training"
    fields = (
        _fields_in(bridge / "config.py")
        | _fields_in(bridge / "mixed_precision.py")
        | _fields_in(bridge / "comm_overlap.py")
    )
    sections = {
        "train": "TrainingConfig",
        "dist": "DistributedInitConfig",
        "comm_overlap": "CommOverlapConfig",
        "mixed_precision": "MixedPrecisionConfig",
    }
    own: dict[str, Any] = {}
    for path, value in TARGETS["nemo"].keys(text).items():
        section, _, key = path.partition(".")
        if section in sections:
            name = key.partition(".")[0]
            if name not in fields[sections[section]] and name != "_target_":
                raise ValueError(f"{sections[section]} has no {name}")
        elif section != "dataset":
            own[key] = value
    formats = {
        key.removeprefix("mixed_precision."): value
        for key, value in TARGETS["nemo"].keys(text).items()
        if key.startswith("mixed_precision.")
    }
    own |= {key: formats[key] for key in ("bf16", "fp16", "fp8", "fp8_recipe", "fp4", "fp4_recipe") if key in formats}
    model = plan_file.model()
    sizes = {
        "num_layers": model.layer_count,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.layer_classes[0].attention.heads,
    }
    experts = getattr(model.layer_classes[0].ffn, "experts", None)
    _core(
        own,
        plan_file,
        extra={**sizes, "num_moe_experts": experts, "add_bias_linear": False},
        others=frozenset({"seq_length"}),
    )


def _fields_in(source: Path) -> dict[str, set[str]]:
    """The annotated fields of each class in a file."""
    return {
        node.name: {
            str(line.target.id)
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def _torchtitan(text: str, plan_file: PlanFile) -> None:
    from torchtitan.config.manager import ConfigManager
    from torchtitan.distributed.parallel_dims import ParallelDims

    config = _read_file(text, ".toml", lambda path: ConfigManager().parse_args(["--job.config_file", path]))
    axes, choices = config.parallelism, choices_of(plan_file)
    dims = ParallelDims(
        dp_shard=axes.data_parallel_shard_degree,
        dp_replicate=axes.data_parallel_replicate_degree,
        cp=axes.context_parallel_degree,
        tp=axes.tensor_parallel_degree,
        pp=axes.pipeline_parallel_degree,
        ep=axes.expert_parallel_degree,
        etp=axes.expert_tensor_parallel_degree,
        world_size=choices["ranks"],
    )
    for axis in ("pp", "cp", "tp", "ep", "dp_shard", "dp_replicate"):
        _same(axis, getattr(dims, axis), choices[axis])
    if choices["pp"] > 1:
        from torch.distributed.pipelining.schedules import get_schedule_class

        get_schedule_class(axes.pipeline_parallel_schedule)


def _deepspeed(text: str, plan_file: PlanFile) -> None:
    from deepspeed.runtime import config as of_deepspeed

    choices = choices_of(plan_file)
    split = choices["tp"] * (1 if choices["cp"] == 1 else choices["cp"])
    ranks = choices["ranks"] // split * (choices["cp"] if choices["cp"] > 1 else 1)
    with (
        mock.patch.object(of_deepspeed.dist, "get_rank", return_value=0),
        mock.patch.object(of_deepspeed.dist, "get_world_size", return_value=ranks),
    ):
        config = of_deepspeed.DeepSpeedConfig(json.loads(text))
    _same("train_batch_size", config.train_batch_size, choices["global_batch"])
    _same("train_micro_batch_size_per_gpu", config.train_micro_batch_size_per_gpu, choices["micro_batch"])
    _same("stage", int(config.zero_config.stage), max(choices["zero_stage"]))
    offload = config.zero_config.offload_optimizer
    _same("offload_optimizer", bool(offload and offload.device != "none"), choices["offload_optimizer"] > 0)


def _accelerate(text: str, plan_file: PlanFile) -> None:
    from accelerate.commands import launch

    choices = choices_of(plan_file)

    def read(path: str) -> Any:
        arguments = launch.launch_command_parser().parse_args(["--config_file", path, "train.py"])
        with mock.patch.object(launch.torch.cuda, "device_count", return_value=8, create=True):
            return launch._validate_launch_command(arguments)[0]

    arguments = _read_file(text, ".yaml", read)
    _same("num_processes", arguments.num_processes, choices["ranks"])
    sharded = max(choices["zero_stage"]) > 0 or choices["cp"] * choices["tp"] > 1
    _same("use_fsdp", bool(arguments.use_fsdp), sharded)
    if arguments.use_parallelism_config not in (False, "false", None):
        for axis, name in (
            ("tp", "tp_size"),
            ("cp", "cp_size"),
            ("dp_shard", "dp_shard_size"),
            ("dp_replicate", "dp_replicate_size"),
        ):
            _same(name, int(getattr(arguments, f"parallelism_config_{name}")), choices[axis])


Check = Callable[[str, PlanFile], None]

CHECKS: dict[str, tuple[str, Check, tuple[str, str]]] = {
    "megatron": ("megatron-core", _megatron, ("--tensor-model-parallel-size", "--tensor-parallel-size")),
    "nemo": ("megatron-bridge", _nemo, ("tensor_model_parallel_size: ", "tensor_parallel_size: ")),
    "torchtitan": ("torchtitan", _torchtitan, ("tensor_parallel_degree", "tensor_parallel_size")),
    "deepspeed": ("deepspeed", _deepspeed, ('"stage": ', '"zero_stage": ')),
    "accelerate": ("accelerate", _accelerate, ("num_processes: ", "processes: ")),
}
"""For each target its package, the check, and what spoils a file: a key under another name."""
