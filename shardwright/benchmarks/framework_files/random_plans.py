"""Random plans that a framework can express by its documentation, drawn without the tables that write its file."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from shardwright.base import SpecError, divisors
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import PlanFile, check_plan
from shardwright.exports import TARGETS
from shardwright.specs import ClusterSpec, Mesh, Plan, TrainingSpec, even_stages
from shardwright.specs.model import ModelSpec

_DENSE, _EXPERTS = "llama-3.1-8b", "qwen3-30b-a3b"
_RANKS = 64
_SEQ_LEN, _BATCH = 8192, 128
_TRIES = 2000

Drawn = dict[str, Any]


@cache
def _cluster() -> ClusterSpec:
    return load_cluster(f"b200-sxm:{_RANKS}")


@cache
def _model(name: str) -> ModelSpec:
    return load_model(name)


def random_plan(target: str, seed: int) -> PlanFile:
    """Return a plan for a target that divides its model, batch and cluster; the same for the same seed.

    Raises:
        SpecError: no target has that name.
    """
    if target not in _DRAWS:
        raise SpecError(f"target '{target}' has no random plans; known: {', '.join(_DRAWS)}")
    chance = random.Random(f"{target} {seed}")
    for _ in range(_TRIES):
        drawn = _DRAWS[target](chance)
        try:
            return _built(drawn)
        except SpecError:
            continue
    raise AssertionError(f"{_TRIES} draws for {target} gave no plan that divides")


def _built(drawn: Drawn) -> PlanFile:
    model = _model(drawn.pop("model"))
    precision = drawn.pop("precision")
    training = {"seq_len": _SEQ_LEN, "global_batch": _BATCH, "precision": precision, **drawn.pop("training")}
    mesh = Mesh.parse(drawn.pop("mesh"), source="drawn")
    parts = drawn.pop("parts") or even_stages(model.layer_count, mesh.pp)
    policies, zero = drawn.pop("policies"), drawn.pop("zero_stage")
    zero = zero if mesh.shard_ranks > 1 else 0
    per_rank, rest = divmod(_BATCH, mesh.dp * drawn["micro_batch"])
    if rest or sum(parts) != model.layer_count:
        raise SpecError("does not divide")
    stages = []
    for stage, part in enumerate(parts):
        kinds = policies(part, stage)
        runs = [{"count": count, "recompute": kind, "zero_stage": zero} for kind, count in _runs(kinds)]
        stages.append({"layers": runs})
    plan = Plan.parse({"mesh": mesh, "microbatches": per_rank, "stages": stages, **drawn}, source="drawn")
    spec = TrainingSpec.parse(training, source="drawn")
    check_plan(plan, model, _cluster(), spec)
    return PlanFile(model_name=model.name, model_config_json=model.config, cluster=_cluster(), training=spec, plan=plan)


def _runs(kinds: list[str]) -> Iterator[tuple[str, int]]:
    start = 0
    for index in range(1, len(kinds) + 1):
        if index == len(kinds) or kinds[index] != kinds[start]:
            yield kinds[start], index - start
            start = index


def _uneven(chance: random.Random, layers: int, stages: int) -> list[int]:
    """Layers of each stage: even, or with a few layers moved."""
    parts = even_stages(layers, stages)
    for _ in range(chance.choice([0, 0, 1, 3])):
        giver, taker = chance.randrange(stages), chance.randrange(stages)
        if parts[giver] > 1:
            parts[giver] -= 1
            parts[taker] += 1
    return parts


def _alike(kind: str) -> Callable[[int, int], list[str]]:
    return lambda part, stage: [kind] * part


def _mesh(chance: random.Random, *, pp: list[int], cp: list[int], tp: list[int]) -> Drawn:
    mesh = {"pp": chance.choice(pp), "cp": chance.choice(cp), "tp": chance.choice(tp)}
    left = _RANKS // (mesh["pp"] * mesh["cp"] * mesh["tp"])
    return mesh | {"dp": chance.choice(divisors(left)) if left else 1}


def _megatron(chance: random.Random) -> Drawn:
    """ZeRO 0 and 1, 1F1B plain and interleaved, blocks of recompute, every kind of context parallelism, experts over etp."""
    model = chance.choice([_DENSE, _EXPERTS])
    mesh = _mesh(chance, pp=[1, 2, 4], cp=[1, 1, 2, 4], tp=[1, 2, 4])
    dp, zero = mesh.pop("dp"), chance.choice([0, 1])
    replicas = chance.choice(divisors(dp)) if zero else dp
    mesh |= {"dp_replicate": replicas, "dp_shard": dp // replicas}
    if mesh["pp"] > 1 and dp > 1:
        mesh["order"] = chance.choice(["tp-cp-dp-pp", "tp-cp-pp-dp"])
    drawn = _context(chance, mesh, ["ring", "all-gather", "ulysses", "ulysses-ring"])
    if model == _EXPERTS:
        mesh["ep"] = chance.choice([1, 2, 4, 8])
        mesh["etp"] = chance.choice([0, 1, mesh["tp"]]) if mesh["ep"] > 1 else 0
        drawn["expert_dispatch"] = chance.choice(["all-to-all", "deduplicated"]) if mesh["ep"] > 1 else "all-to-all"
    rounds = chance.choice([1, 1, 2]) if mesh["pp"] > 1 else 1
    first = chance.randrange(1, 5)
    policies = chance.choice(
        [_alike("none"), _alike("selective"), _alike("full"), lambda part, stage: (["full"] * min(first, part)) + ["none"] * (part - first)]
    )  # fmt: skip
    on_host = chance.choice([0, 0, 0.5, 1]) if zero and mesh["dp_shard"] * mesh["cp"] > 1 else 0
    return drawn | {
        "model": model,
        "mesh": mesh,
        "parts": _uneven(chance, _model(model).layer_count, mesh["pp"] * rounds) if mesh["pp"] > 1 else None,
        "policies": policies,
        "zero_stage": zero,
        "schedule": "interleaved-1f1b" if rounds > 1 else "1f1b",
        "micro_batch": chance.choice([1, 2, 4]),
        "sequence_parallel": chance.choice([True, True, False]) if mesh["tp"] > 1 else True,
        "offload": {"optimizer_fraction": on_host},
        "precision": {"linear": chance.choice([None, None, "fp8", "mxfp8"])},
        "training": _megatron_training(chance, mesh, model, on_host=on_host),
    }


def _megatron_training(chance: random.Random, mesh: Drawn, model: str, *, on_host: float) -> Drawn:
    training: Drawn = {"stack": "megatron-core-0.15"}
    training["mtp_layers"] = chance.choice([0, 0, 1])
    training["optimizer"] = chance.choice(["adamw", "adamw", "sgd"]) if not on_host else "adamw"
    training["recompute_modules"] = chance.choice(["", "core_attn+mlp"])
    training["attention"] = chance.choice(["flash", "flash", "unfused"]) if mesh["cp"] == 1 else "flash"
    if model == _EXPERTS:
        training["expert_capacity"] = chance.choice([None, None, 1.25])
    return training


def _context(chance: random.Random, mesh: Drawn, kinds: list[str]) -> Drawn:
    if mesh["cp"] == 1:
        return {}
    kind = chance.choice(kinds)
    return {"context_parallel": kind, **({"ulysses_degree": 2} if kind == "ulysses-ring" else {})}


def _nemo(chance: random.Random) -> Drawn:
    """As Megatron-LM, with gradients in bf16 on NeMo's stack."""
    drawn = _megatron(chance)
    if chance.choice([True, False]):
        drawn["training"]["stack"] = "nemo"
        drawn["precision"]["gradients"] = "bf16"
    return drawn


def _torchtitan(chance: random.Random) -> Drawn:
    """FSDP, HSDP and DDP, torch's schedules, every Nth layer recomputed, experts over all of tp or none of it."""
    model = chance.choice([_DENSE, _EXPERTS])
    mesh = _mesh(chance, pp=[1, 1, 2, 4], cp=[1, 1, 2], tp=[1, 2, 4])
    dp, pp = mesh.pop("dp"), mesh["pp"]
    shard = chance.choice([degree for degree in divisors(dp) if degree > 1] or [1])
    alone = pp * mesh["cp"] * mesh["tp"] == 1 and chance.choice([True, False])
    mesh |= {"dp_replicate": dp, "dp_shard": 1} if alone else {"dp_replicate": dp // shard, "dp_shard": shard}
    drawn = _context(chance, mesh, ["ring", "all-gather"])
    if model == _EXPERTS and not alone:
        mesh["ep"] = chance.choice([1, 2, 4, 8])
        mesh["etp"] = chance.choice([1, mesh["tp"]]) if mesh["ep"] > 1 else 0
        drawn["expert_dispatch"] = chance.choice(["all-to-all", "deduplicated"]) if mesh["ep"] > 1 else "all-to-all"
    schedule = chance.choice(["gpipe", "1f1b", "interleaved-1f1b", "zb-v", "dualpipe-v"]) if pp > 1 else "1f1b"
    rounds = 1 if schedule in ("gpipe", "1f1b") else 2
    every = chance.choice([2, 3])
    whole = (
        [_alike("none")]
        if schedule in ("zb-v", "dualpipe-v")
        else [_alike("none"), _alike("selective"), _alike("full")]
    )
    sparse = (
        [lambda part, stage: ["none" if (layer + 1) % every else "full" for layer in range(part)]] if pp == 1 else []
    )
    return drawn | {
        "model": model,
        "mesh": mesh,
        "parts": _uneven(chance, _model(model).layer_count, pp * rounds) if pp > 1 else None,
        "policies": chance.choice([*whole, *sparse]),
        "zero_stage": chance.choice([1, 3]) if pp > 1 else chance.choice([2, 3]),
        "schedule": schedule,
        "micro_batch": chance.choice([1, 2, 4]),
        "offload": {"optimizer_fraction": chance.choice([0, 0, 1]) if not alone else 0},
        "precision": {"linear": chance.choice([None, "fp8", "fp8-rowwise", "mxfp8"])},
        "training": {
            "stack": chance.choice(["torchtitan-eager", "torchtitan", "torchtitan-compiled-loss", "torchtitan-async-tp"])
        },
    }  # fmt: skip


def _deepspeed(chance: random.Random) -> Drawn:
    """ZeRO 0 to 3 with AutoTP and Ulysses, the optimizer on the host or on drives."""
    mesh = _mesh(chance, pp=[1], cp=[1, 1, 2, 4], tp=[1, 1, 2, 4])
    zero = chance.choice([0, 1, 2, 3])
    mesh |= {"dp_shard": mesh.pop("dp")} if zero else {"dp_replicate": mesh.pop("dp")}
    if zero and mesh["dp_shard"] * mesh["cp"] == 1:
        zero = 0
    on_host = chance.choice([0, 0, 1, *([0.5] if zero == 3 else [])]) if zero else 0
    return _context(chance, mesh, ["ulysses"]) | {
        "model": _DENSE,
        "mesh": mesh,
        "parts": None,
        "policies": _alike(chance.choice(["none", "full"])),
        "zero_stage": zero,
        "micro_batch": chance.choice([1, 2, 4]),
        "sequence_parallel": mesh["tp"] == 1,
        "offload": {"optimizer_fraction": on_host, "nvme_fraction": chance.choice([0, 1]) if on_host else 0},
        "precision": {"gradients": "bf16", "compute": chance.choice(["bf16", "bf16", "fp16"])},
        "training": {"stack": "hf-deepspeed", "optimizer": chance.choice(["adamw", "adamw", "sgd"])},
    }


def _accelerate(chance: random.Random) -> Drawn:
    """FSDP1 in its five ways and FSDP2 with tp, cp and replicas."""
    old = chance.choice([True, False])
    mesh = _mesh(chance, pp=[1], cp=[1] if old else [1, 1, 2], tp=[1] if old else [1, 1, 2, 4])
    dp, zero = mesh.pop("dp"), chance.choice([0, 2, 3] if mesh["cp"] == 1 else [2, 3])  # FSDP shards over cp
    hybrid = 8 if dp > 8 and chance.choice([True, False]) else dp
    shard = (hybrid if old else chance.choice(divisors(dp))) if zero else 1
    mesh |= {"dp_shard": shard, "dp_replicate": dp // shard}
    sharded = zero and shard * mesh["cp"] > 1
    recompute = chance.choice(["none", "full"])
    return _context(chance, mesh, ["ring", "all-gather"]) | {
        "model": _DENSE,
        "mesh": mesh,
        "parts": None,
        "policies": _alike(recompute if sharded else "none"),
        "zero_stage": zero,
        "micro_batch": chance.choice([1, 2, 4]),
        "sequence_parallel": mesh["tp"] == 1,
        "offload": {"optimizer_fraction": chance.choice([0, 0, 1]) if sharded else 0},
        "precision": {"compute": chance.choice(["bf16", "bf16", "fp16"])},
        "training": {"stack": "hf-trainer" if old and sharded else "accelerate"},
    }


_DRAWS: dict[str, Callable[[random.Random], Drawn]] = {
    "megatron": _megatron,
    "nemo": _nemo,
    "torchtitan": _torchtitan,
    "deepspeed": _deepspeed,
    "accelerate": _accelerate,
}
assert _DRAWS.keys() == TARGETS.keys()
