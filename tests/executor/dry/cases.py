"""Small plans for dry runs: one for each axis and kind of exchange, and some of many axes."""

from collections.abc import Callable, Mapping
from typing import Any

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs import Outer, Plan, Sync
from tests.parity import cases
from tests.parity.cases import layers, model_config, plan_file
from tests.parity.families import FAMILIES, OTHERS

SEQ_LEN = 64

LLAMA, LLAMA_4 = model_config("llama"), model_config("llama", layers=4)
# a head whose gradient is larger than what else its stage keeps
LLAMA_WIDE = model_config("llama", layers=4, vocab_size=4096)
# a vocabulary whose parts 2 x 2 ranks divide evenly
TIED = model_config("qwen3", layers=4, tied=True, vocab_size=96)
MIXTRAL = FAMILIES["mixtral"]


def plan(*stages: Any, **given: Any) -> Plan:
    """Of one microbatch, whose trace is the fastest, unless more are asked for: where exchanges or what is kept depend on them."""
    return cases.plan(*stages, **{"microbatches": 1, **given})


def small(config: dict[str, Any], of_plan: Any, **options: Any) -> PlanFile:
    return plan_file(config, of_plan, **{"compute": "bf16", "seq_len": SEQ_LEN, **options})


def _stages(count: int, each: Any) -> tuple[Any, ...]:
    return ((each,),) * count


def _agreeing(sync: Sync, *stages: Any, **given: Any) -> Any:
    """A plan with two replicas that agree so."""
    return plan(*stages, dp_replicate=2, **given).model_copy(update={"sync": sync})


def _adamw(file: PlanFile) -> PlanFile:
    return file.model_copy(update={"training": file.training.model_copy(update={"optimizer": "adamw"})})


# a width of whole 16s on every rank: others are filled up with zeros
_WIDE = model_config("llama", hidden_size=64, intermediate_size=96, head_dim=16)


LATENT = FAMILIES["deepseek_v3"]
_WIDE_EXPERTS = FAMILIES["qwen2_moe"] | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def _low(of_plan: Any, config: dict[str, Any] = _WIDE, **training: Any) -> PlanFile:
    given = small(config, of_plan, **training)
    precision = given.training.precision.model_copy(update={"linear": "fp8"})
    return given.model_copy(update={"training": given.training.model_copy(update={"precision": precision})})


PLANS: Mapping[str, Callable[[], PlanFile]] = {
    "one rank": lambda: small(LLAMA, plan((layers(),), microbatches=2)),
    "one microbatch": lambda: small(LLAMA, plan((layers(zero=3),), microbatches=1, dp_shard=2)),
    "zero 0": lambda: small(LLAMA, plan((layers(),), microbatches=4, dp_replicate=2)),
    "zero 1": lambda: small(LLAMA, plan((layers(zero=1),), microbatches=4, dp_shard=2)),
    "zero 2": lambda: small(LLAMA, plan((layers(zero=2),), microbatches=4, dp_shard=2)),
    "zero 3": lambda: small(LLAMA, plan((layers(zero=3),), microbatches=4, dp_shard=2)),
    "zero 1, 2 and 3 by layer": lambda: small(
        LLAMA_4, plan((layers(1, zero=1), layers(1, zero=2), layers(2, zero=3)), microbatches=4, dp_shard=2)
    ),
    "hsdp": lambda: small(LLAMA, plan((layers(zero=3),), microbatches=2, dp_shard=2, dp_replicate=2)),
    "tp": lambda: small(LLAMA, plan((layers(),), microbatches=4, tp=2)),
    "tp without sequence parallelism": lambda: small(LLAMA, plan((layers(),), tp=2, sequence_parallel=False)),
    "tp, norms of heads": lambda: small(
        model_config("qwen3"), plan((layers(zero=2),), tp=2, dp_shard=2, sequence_parallel=False)
    ),
    "attention and feed-forward side by side over tp": lambda: small(
        FAMILIES["gpt_neox"], plan((layers(recompute="full"),), tp=2)
    ),
    "side by side after one norm over tp without sequence parallelism": lambda: small(
        OTHERS["cohere"], plan((layers(),), tp=2, sequence_parallel=False)
    ),
    "full recompute": lambda: small(LLAMA, plan((layers(zero=3, recompute="full"),), microbatches=4, dp_shard=2, tp=2)),
    "pieces of the sequence": lambda: small(LLAMA, plan((layers(2),), microbatches=2), sequence_chunks=4),
    "pieces of the sequence over tp": lambda: small(
        LLAMA, plan((layers(2),), microbatches=2, tp=2, sequence_parallel=False), sequence_chunks=3
    ),
    "pieces of the sequence, full recompute": lambda: small(
        LLAMA, plan((layers(2, zero=3, recompute="full"),), microbatches=2, dp_shard=2), sequence_chunks=4
    ),
    "tiles over tp, full recompute": lambda: small(LLAMA, plan((layers(recompute="full"),), tp=2), mlp_tiles=4),
    "tiles over tp without sequence parallelism": lambda: small(
        LLAMA, plan((layers(),), tp=2, sequence_parallel=False), mlp_tiles=2
    ),
    "linears in 8 bits over tp, tiles and full recompute": lambda: _low(
        plan((layers(recompute="full"),), tp=2), mlp_tiles=2
    ),
    "1f1b": lambda: small(LLAMA_4, plan(*_stages(4, layers(1)), microbatches=8, pp=4)),
    "gpipe, zero 3": lambda: small(
        LLAMA_4, plan(*_stages(2, layers(zero=3)), microbatches=4, pp=2, dp_shard=2, schedule="gpipe")
    ),
    "interleaved": lambda: small(
        LLAMA_4, plan(*_stages(4, layers(1, zero=1)), microbatches=4, pp=2, dp_shard=2, schedule="interleaved-1f1b")
    ),
    "breadth-first, zero 3": lambda: small(
        LLAMA_4, plan(*_stages(4, layers(1, zero=3)), microbatches=4, pp=2, dp_shard=2, schedule="breadth-first")
    ),
    "zb-v": lambda: small(LLAMA_4, plan(*_stages(4, layers(1)), microbatches=8, pp=2, schedule="zb-v")),
    "tied embedding over a pipeline": lambda: small(
        TIED, plan(*_stages(2, layers(zero=1)), microbatches=4, pp=2, dp_shard=2, tp=2)
    ),
    "cp, all-gather": lambda: small(LLAMA, plan((layers(zero=1),), microbatches=2, cp=4)),
    "cp, ring": lambda: small(LLAMA, plan((layers(zero=1),), cp=4, context_parallel="ring")),
    "cp, ulysses": lambda: small(LLAMA, plan((layers(zero=1),), microbatches=2, cp=4, context_parallel="ulysses")),
    "cp, ulysses and a ring": lambda: small(
        LLAMA, plan((layers(zero=1),), cp=4, context_parallel="ulysses-ring", ulysses_degree=2)
    ),
    "cp with tp, zero 3 and full recompute": lambda: small(
        LLAMA, plan((layers(zero=3, recompute="full"),), dp_shard=2, cp=2, tp=2)
    ),
    "experts over tp": lambda: small(MIXTRAL, plan((layers(),), tp=2)),
    "ep": lambda: small(MIXTRAL, plan((layers(zero=1),), dp_shard=2, ep=2)),
    "ep over dp and tp": lambda: small(MIXTRAL, plan((layers(zero=1),), dp_shard=2, tp=2, ep=4)),
    "ep that shares experts": lambda: small(MIXTRAL, plan((layers(zero=1),), dp_shard=2, tp=2, ep=2, etp=2)),
    "ep, full recompute": lambda: small(MIXTRAL, plan((layers(zero=2, recompute="full"),), dp_shard=2, tp=2, ep=4)),
    "means to experts": lambda: small(
        MIXTRAL, plan((layers(zero=1),), microbatches=2, dp_shard=2, ep=2), tokens_per_centroid=5
    ),
    "means to experts over dp and tp, full recompute": lambda: small(
        MIXTRAL, plan((layers(zero=2, recompute="full"),), dp_shard=2, tp=2, ep=4), tokens_per_centroid=4
    ),
    "means to experts that share columns": lambda: small(
        MIXTRAL, plan((layers(zero=1),), dp_shard=2, tp=2, ep=2, etp=2), tokens_per_centroid=4
    ),
    "loss in chunks": lambda: small(LLAMA_WIDE, plan((layers(4),), microbatches=2), loss_chunks=4),
    "loss in chunks over a pipeline": lambda: small(
        LLAMA_WIDE, plan(*_stages(2, layers(2)), microbatches=4, pp=2, tp=2), loss_chunks=4
    ),
    "8-bit gradients": lambda: small(LLAMA, _agreeing(Sync(bits=8), (layers(zero=2),), dp_shard=2)),
    "1-bit Adam with tp": lambda: _adamw(
        small(LLAMA, _agreeing(Sync(bits=1, warmup_steps=5), (layers(zero=1),), tp=2, dp_shard=2))
    ),
    "1-bit Adam of experts": lambda: _adamw(
        small(MIXTRAL, _agreeing(Sync(bits=1, warmup_steps=5), (layers(zero=1),), dp_shard=2, ep=2, tp=2))
    ),
    "DiLoCo over a pipeline": lambda: small(
        LLAMA_4,
        _agreeing(Sync(inner_steps=8, outer=Outer()), *_stages(2, layers(zero=3)), microbatches=2, pp=2, dp_shard=2),
    ),
    "DiLoCo with a tied embedding": lambda: small(
        TIED,
        _agreeing(
            Sync(inner_steps=4, bits=16, outer=Outer()), *_stages(2, layers(zero=1)), microbatches=2, pp=2, dp_shard=2
        ),
    ),
    "Streaming DiLoCo": lambda: small(
        LLAMA, _agreeing(Sync(inner_steps=4, fragments=2, bits=4, delay=1, outer=Outer()), (layers(zero=3),), cp=2)
    ),
    "islands": lambda: small(LLAMA, _agreeing(Sync(inner_steps=None), (layers(),), tp=2)),
    "linears in 8 bits over tp": lambda: _low(plan((layers(zero=1),), tp=2, dp_shard=2)),
    "linears in 8 bits over cp and tp, full recompute": lambda: _low(
        plan((layers(zero=3, recompute="full"),), cp=2, tp=2, dp_shard=2)
    ),
    "linears in 8 bits over tp, tiles": lambda: _low(plan((layers(),), tp=2), mlp_tiles=2),
    "linears in 8 bits over tp, named modules": lambda: _low(
        plan((layers(recompute="selective"),), tp=2), recompute_modules=("mlp",)
    ),
    "linears in 8 bits beside experts over ep and tp": lambda: _low(
        plan((layers(zero=1, recompute="full"),), dp_shard=2, tp=2, ep=2), _WIDE_EXPERTS
    ),
    "linears in 8 bits beside experts over tp, experts again": lambda: _low(
        plan((layers(recompute="selective"),), tp=2), _WIDE_EXPERTS, recompute_modules=("moe",)
    ),
    "linears in 8 bits beside experts over tp, shared experts again": lambda: _low(
        plan((layers(recompute="selective"),), tp=2), _WIDE_EXPERTS, recompute_modules=("shared_experts",)
    ),
    "shared experts without a gate over tp, experts again": lambda: small(
        OTHERS["ernie4_5_moe"], plan((layers(recompute="selective"),), tp=2), recompute_modules=("moe",)
    ),
    "latent attention over tp": lambda: small(LATENT, plan((layers(zero=1),), tp=2, dp_shard=2)),
    "latent attention without a latent of queries over tp, full recompute": lambda: small(
        LATENT | {"q_lora_rank": None}, plan((layers(recompute="full"),), tp=2, sequence_parallel=False)
    ),
    "latent attention over cp": lambda: small(LATENT, plan((layers(),), cp=2)),
    "latent attention over cp and tp, full recompute": lambda: small(
        LATENT, plan((layers(recompute="full"),), cp=2, tp=2)
    ),
    "a loss on routers over pp and cp": lambda: small(
        MIXTRAL | {"output_router_logits": True}, plan(*_stages(2, layers(1)), microbatches=4, pp=2, cp=2)
    ),
    "64 ranks": lambda: small(
        LLAMA_4, plan(*_stages(4, layers(1, zero=2)), microbatches=2, global_batch=16, pp=4, dp_shard=8, tp=2)
    ),
}

_LORA, _LAST = {"trainable": "lora:r=4"}, {"trainable": "layers:1+head"}
_LORA_8 = {"trainable": "lora:r=8"}
ADAPTED: Mapping[str, Callable[[], PlanFile]] = {
    "one rank": lambda: small(LLAMA, plan((layers(2),), microbatches=2), **_LORA),
    "zero 1": lambda: small(LLAMA, plan((layers(2, zero=1),), microbatches=4, dp_shard=2), **_LORA),
    "zero 3": lambda: small(LLAMA, plan((layers(2, zero=3),), microbatches=4, dp_shard=2), **_LORA),
    "hsdp": lambda: small(LLAMA, plan((layers(2, zero=3),), microbatches=2, dp_shard=2, dp_replicate=2), **_LORA),
    "tp": lambda: small(LLAMA, plan((layers(2),), microbatches=4, tp=2), **_LORA),
    "tp, zero 2": lambda: small(LLAMA, plan((layers(2, zero=2),), microbatches=4, tp=2, dp_shard=2), **_LORA),
    "tp without sequence parallelism": lambda: small(LLAMA, plan((layers(2),), tp=2, sequence_parallel=False), **_LORA),
    "pp and tp": lambda: small(
        LLAMA, plan(*_stages(2, layers(1, zero=1)), microbatches=4, pp=2, tp=2, dp_shard=2), **_LORA
    ),
    "experts": lambda: small(MIXTRAL, plan((layers(),)), **_LORA_8),
    "experts over tp": lambda: small(MIXTRAL, plan((layers(),), tp=2), **_LORA_8),
    "ep, zero 3": lambda: small(MIXTRAL, plan((layers(zero=3),), dp_shard=4, ep=2), **_LORA_8),
    "ep over tp, full recompute": lambda: small(
        MIXTRAL, plan((layers(zero=2, recompute="full"),), dp_shard=2, tp=2, ep=4), **_LORA_8
    ),
    "ep that shares experts": lambda: small(MIXTRAL, plan((layers(zero=1),), dp_shard=2, tp=2, ep=2, etp=2), **_LORA_8),
    "shared experts": lambda: small(OTHERS["ernie4_5_moe"], plan((layers(),), tp=2, ep=2), **_LORA_8),
    "tiles, full recompute": lambda: small(LLAMA, plan((layers(2, recompute="full"),), tp=2), mlp_tiles=2, **_LORA),
    "last layers": lambda: small(LLAMA, plan((layers(2, zero=3),), microbatches=4, dp_shard=2), **_LAST),
    "last layers over pp and tp": lambda: small(
        LLAMA, plan(*_stages(2, layers(1)), microbatches=4, pp=2, tp=2), **_LAST
    ),
}
"""Beside frozen weights."""
