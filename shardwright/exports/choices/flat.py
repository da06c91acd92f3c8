"""The choices of a plan file as one flat table, and back: what every target's table of keys reads and writes."""

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.specs import (
    AXES,
    PIPELINE_OUTERMOST,
    ClusterSpec,
    LayerRun,
    Mesh,
    Plan,
    Stage,
    TrainingSpec,
    even_stages,
    named_stack,
)
from shardwright.specs.model import MixtureOfExperts, ModelSpec

Choices = dict[str, Any]

PRECISION = ("compute", "parameters", "gradients", "linear", "gather")
TRAINING = tuple(
    name
    for name in TrainingSpec.model_fields
    if name not in ("precision", "stack", "recompute_modules", "global_batch")
)
"""Fields of the training spec that a choice has the name of; modules of recompute are a choice where a layer repeats them."""

OFFLOADS = {
    "offload_optimizer": "optimizer_fraction",
    "offload_gradients": "gradient_fraction",
    "offload_parameters": "parameter_fraction",
    "offload_nvme": "nvme_fraction",
    "delayed_update": "delayed_update",
}
_OF_PLAN = (
    "micro_batch",
    "schedule",
    "sequence_parallel",
    "context_parallel",
    "ulysses_degree",
    "expert_dispatch",
    "vocabulary_parallel",
)
DEFAULTS: Choices = {
    "order": PIPELINE_OUTERMOST,
    "schedule": "1f1b",
    "sequence_parallel": True,
    "context_parallel": "all-gather",
    "ulysses_degree": 1,
    "expert_dispatch": "all-to-all",
    "vocabulary_parallel": "none",
    "mtp_stage": None,
    **dict.fromkeys(OFFLOADS, 0),
    "delayed_update": False,
}
"""Choices of the plan that a target without such a choice has."""


def canonical(plan: Plan) -> Plan:
    """Return the same plan with choices that say nothing in it as they are by default, and equal neighbouring layers joined."""
    mesh, stages = plan.mesh, tuple(_joined(stage) for stage in plan.stages)
    changes: Choices = {"stages": stages, "mesh": _canonical_mesh(mesh)}
    if mesh.tp == 1:
        changes["sequence_parallel"] = True
    if mesh.cp == 1:
        changes |= {"context_parallel": "all-gather", "ulysses_degree": 1}
    if mesh.ep == 1:
        changes["expert_dispatch"] = "all-to-all"
    if plan.mtp_stage == len(stages) - 1:  # where it is without being said
        changes["stages"] = (*stages[:-1], stages[-1].model_copy(update={"mtp_layers": 0}))
    return Plan(**{**dict(plan), **changes})


def _canonical_mesh(mesh: Mesh) -> Mesh:
    changes: Choices = {}
    if mesh.etp == _left_of_tp(mesh.tp, mesh.ep):
        changes["etp"] = 0
    if mesh.pp == 1 or mesh.dp == 1:
        changes["order"] = PIPELINE_OUTERMOST
    return Mesh(**{**dict(mesh), **changes})


def _left_of_tp(tp: int, ep: int) -> int:
    return tp // math.gcd(tp, ep)


def _joined(stage: Stage) -> Stage:
    runs = groupby(stage.layers, key=lambda run: run.model_copy(update={"count": 1}))
    layers = tuple(kind.model_copy(update={"count": sum(run.count for run in same)}) for kind, same in runs)
    return stage.model_copy(update={"layers": layers})


def facts_of(model: ModelSpec) -> Choices:
    """What rows need to know of the model: its `layer_count`, and whether it has `experts`."""
    has_experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
    return {"layer_count": model.layer_count, "experts": has_experts}


def choices_of(file: PlanFile) -> Choices:
    """Return every choice of a canonical plan and its training, and the facts of its model. Choices of layers are tuples in the order of the model."""
    plan, training = file.plan, file.training
    layers = [layer for stage in plan.stages for layer in stage.each_layer()]
    choices: Choices = {axis: getattr(plan.mesh, axis) for axis in AXES} | {"order": plan.mesh.order}
    choices["ranks"] = plan.mesh.ranks
    choices["etp"] = plan.mesh.expert_tp if plan.mesh.ep > 1 else plan.mesh.tp
    choices |= {name: getattr(plan, name) for name in (*_OF_PLAN, "global_batch", "mtp_stage")}
    choices |= {name: getattr(plan.offload, share) for name, share in OFFLOADS.items()}
    choices["stage_layers"] = tuple(stage.layer_count for stage in plan.stages)
    choices["recompute"] = tuple(layer.recompute for layer in layers)
    choices["zero_stage"] = tuple(layer.zero_stage for layer in layers)
    choices["offload_activations"] = tuple(layer.activation_offload for layer in layers)
    if plan.replicas:
        choices["replicas"] = len(plan.replicas)
    choices |= facts_of(file.model())
    choices |= {name: getattr(training, name) for name in TRAINING}
    choices |= {name: getattr(training.precision, name) for name in PRECISION}
    choices["optimizer"] = str(training.method)
    choices["recompute_modules"] = training.recompute_modules if "selective" in choices["recompute"] else ()
    return choices | {"stack": training.stack}


class Job(NamedTuple):
    """What a target's file does not hold: `model` (None where the file names it), `cluster`, and `given` choices by name."""

    model: ModelSpec | None
    cluster: ClusterSpec
    given: Mapping[str, Any]


def assembled(found: Mapping[str, Any], job: Job, source: str) -> PlanFile:
    """Return the plan file that `found` and the job's `given` choices describe; what both leave out is as by default.

    `zero_stage` and `recompute` may be one value for all layers. Where the data-parallel degrees are left out they are what
    the `ranks` of the file, or all devices of the cluster, leave.

    Raises:
        SpecError: the model, the batch or the sequence is not said, or the numbers do not go together.
    """
    choices = {**DEFAULTS, **job.given, **found}
    model = _model(choices, job, source)
    for name, option in (
        ("micro_batch", "--micro-batch"),
        ("seq_len", "--seq-len"),
        ("global_batch", "--global-batch"),
    ):
        if choices.get(name) is None:
            raise SpecError(f"{source}: says nothing of {name}; give {option}, or --like and a plan file")
    choices |= _data_axes(choices, job.cluster.devices, source)
    parts = choices.get("stage_layers") or even_stages(model.layer_count, choices["pp"])
    if sum(parts) != model.layer_count:
        raise SpecError(f"{source}: the stages hold {sum(parts)} layers and {model.name} has {model.layer_count}")
    training = _training(choices, source)
    plan = _plan(choices, _stages(choices, list(parts), training.mtp_layers, source), source)
    return PlanFile(
        model_name=model.name,
        model_config_json=model.config,
        cluster=job.cluster,
        training=training,
        plan=canonical(plan),
    )


def _model(choices: Choices, job: Job, source: str) -> ModelSpec:
    """The job's model, or that of the file; both must have the same layers.

    Raises:
        SpecError: neither says it, or they differ.
    """
    of_file: ModelSpec | None = choices.get("model")
    if job.model is None:
        if of_file is None:
            raise SpecError(f"{source}: does not say which model it trains; give --model, or --like and a plan file")
        return of_file
    for what, size in (("layers", "layer_count"), ("hidden size", "hidden_size")):
        theirs = choices.get(size) if of_file is None else getattr(of_file, size)
        if theirs is not None and theirs != getattr(job.model, size):
            raise SpecError(
                f"{source}: is for a model of {what} {theirs}, and {job.model.name} has {getattr(job.model, size)}; give another --model"
            )
    return job.model


def _plan(choices: Choices, stages: list[dict[str, Any]], source: str) -> Plan:
    dp = choices["dp_replicate"] * choices["dp_shard"]
    per_rank, rest = divmod(choices["global_batch"], dp * choices["micro_batch"])
    if rest or not per_rank:
        raise SpecError(
            f"{source}: a global batch of {choices['global_batch']} does not divide over dp {dp} x micro batch {choices['micro_batch']}"
        )
    etp, ep = choices.get("etp"), choices["ep"]
    mesh = {axis: choices[axis] for axis in (*AXES, "order") if axis != "etp"}
    mesh["etp"] = 0 if etp is None or ep == 1 or etp == _left_of_tp(choices["tp"], ep) else etp
    offload = {share: choices[name] for name, share in OFFLOADS.items()}
    own = {name: choices[name] for name in _OF_PLAN}
    return Plan.parse(
        {"mesh": mesh, "microbatches": per_rank, "stages": stages, "offload": offload, **own}, source=source
    )


def _data_axes(choices: Choices, devices: int, source: str) -> Choices:
    """The data-parallel degrees and, for each layer alike, the ZeRO stage that these ranks can have."""
    for axis in ("pp", "cp", "tp", "ep"):
        choices.setdefault(axis, 1)
    ranks = choices.get("ranks") or devices
    model_ranks = choices["pp"] * choices["cp"] * choices["tp"]
    dp, rest = divmod(ranks, model_ranks)
    replicate, shard = choices.get("dp_replicate"), choices.get("dp_shard")
    if replicate is None or shard is None:
        if rest or not dp:
            raise SpecError(
                f"{source}: pp {choices['pp']} x cp {choices['cp']} x tp {choices['tp']} does not divide {ranks} ranks"
            )
        sharded = _highest(choices["zero_stage"]) > 0
        known = replicate or shard or (1 if sharded else dp)
        if dp % known:
            raise SpecError(f"{source}: {known} does not divide the {dp} data-parallel ranks of {ranks}")
        if shard is None:
            replicate, shard = known, dp // known
        else:
            replicate = dp // shard
    if _highest(choices["zero_stage"]) == 0:  # whole copies: no axis shards
        replicate, shard = replicate * shard, 1
    stage = choices["zero_stage"] if shard * choices["cp"] > 1 else 0
    return {"dp_replicate": replicate, "dp_shard": shard, "zero_stage": stage}


def _highest(stage: Any) -> int:
    return max(stage) if isinstance(stage, tuple) else int(stage)


def _training(choices: Choices, source: str) -> TrainingSpec:
    values = {
        name: choices[name] for name in (*TRAINING, "global_batch", "stack", "recompute_modules") if name in choices
    }
    precision = {name: choices[name] for name in PRECISION if name in choices}
    values["precision"] = precision | named_stack(choices["stack"]).fixed_formats
    return TrainingSpec.parse(values, source=source)


def _stages(choices: Choices, parts: list[int], mtp_layers: int, source: str) -> list[dict[str, Any]]:
    count = sum(parts)
    recompute, zero = choices.get("recompute", "none"), choices["zero_stage"]
    policies = list(recompute) if isinstance(recompute, tuple) else [recompute] * count
    zeros = list(zero) if isinstance(zero, tuple) else [zero] * count
    if len(policies) != count:
        raise SpecError(f"{source}: recomputes {len(policies)} layers of {count}")
    offloads = list(choices.get("offload_activations") or [0] * count)
    stages, first = [], 0
    for index, part in enumerate(parts):
        held = zip(*(each[first : first + part] for each in (policies, zeros, offloads)), strict=True)
        first += part
        runs = [(kind, len(list(same))) for kind, same in groupby(held)]
        layers = [
            dict(LayerRun(count=n, recompute=policy, zero_stage=stage, activation_offload=share))
            for (policy, stage, share), n in runs
        ]
        stages.append({"layers": layers, "mtp_layers": mtp_layers if choices["mtp_stage"] == index else 0})
    return stages
