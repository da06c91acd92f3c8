"""Plans of every dimension, and the faults that a comparison of their updates must notice."""

from collections.abc import Callable
from typing import NamedTuple

from shardwright.costmodel.plan_file import PlanFile
from tests.parity import sabotage
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS, UNDIVIDED

LLAMA, QWEN3, GPT2 = model_config("llama"), model_config("qwen3"), model_config("gpt2")
LLAMA_4, QWEN3_4, GPT2_4 = (model_config(family, layers=4) for family in ("llama", "qwen3", "gpt2"))
QWEN3_TIED = model_config("qwen3", tied=True)
LLAMA_BIASED = model_config("llama", attention_bias=True, mlp_bias=True)
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
FALCON = OTHERS["falcon"]
FALCON_7B = {**FALCON, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}
ROTATION = {"rope_theta": 10000.0, "original_max_position_embeddings": 12}
LONG_ROTATION = {
    "rope_parameters": {
        **ROTATION,
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.2, 2.4, 2.6],
    },
    "original_max_position_embeddings": 12,
}
DYNAMIC_ROTATION = {
    "rope_parameters": {**ROTATION, "rope_type": "dynamic", "factor": 4.0},
    "max_position_embeddings": 12,
}
UNEVEN = (
    (layers(1, zero=3),),
    (layers(1, zero=1),),
    (layers(1, zero=2), layers(1, zero=3)),
    (layers(1, zero=2),),
)
"""Stages of five layers, each with ZeRO stages of its own."""
FULL, SELECTIVE = layers(1, recompute="full"), layers(1, recompute="selective")


class Case(NamedTuple):
    """A plan, and faults that its comparison must notice."""

    plan_file: PlanFile
    faults: tuple[Callable[[], None], ...] = ()


CASES = {
    "one rank, llama": Case(plan_file(LLAMA, plan((layers(),), microbatches=1))),
    "one rank, qwen3": Case(plan_file(QWEN3, plan((layers(),), microbatches=1))),
    "one rank, gpt2": Case(plan_file(GPT2, plan((layers(),), microbatches=1))),
    "one rank, unfused": Case(plan_file(QWEN3, plan((layers(),)), attention="unfused")),
    "one rank, sliding window": Case(plan_file({**QWEN3, **SLIDING}, plan((layers(),)))),
    "one rank, unfused sliding window": Case(plan_file({**QWEN3, **SLIDING}, plan((layers(),)), attention="unfused")),
    "accumulation": Case(
        plan_file(LLAMA, plan((layers(),), microbatches=2)),
        (sabotage.average_each_microbatch, sabotage.overwrite_gradients),
    ),
    "replicas, zero 0": Case(plan_file(GPT2, plan((layers(),), dp_replicate=2)), (sabotage.skip_all_reduce,)),
    "zero 1": Case(plan_file(QWEN3, plan((layers(zero=1),), dp_shard=2)), (sabotage.lose_last_microbatch,)),
    "zero 2": Case(plan_file(GPT2, plan((layers(zero=2),), dp_shard=2)), (sabotage.overwrite_gradients,)),
    "zero 3": Case(plan_file(LLAMA, plan((layers(zero=3),), dp_shard=2)), (sabotage.forget_data_parallel_average,)),
    "zero 3 over 4 ranks, widths that 4 does not divide": Case(
        plan_file(model_config("gpt2", vocab_size=101, n_inner=46), plan((layers(zero=3),), dp_shard=4))
    ),
    "zero 1, 2 and 3 by layer": Case(
        plan_file(LLAMA_4, plan((layers(1, zero=1), layers(1, zero=2), layers(2, zero=3)), dp_shard=2)),
        (sabotage.overwrite_gradients,),
    ),
    "hsdp": Case(
        plan_file(QWEN3, plan((layers(1, zero=2), layers(1, zero=3)), dp_replicate=2, dp_shard=2)),
        (sabotage.skip_all_reduce,),
    ),
    "tp, llama": Case(plan_file(LLAMA, plan((layers(),), tp=2, sequence_parallel=False))),
    "tp, llama with biases": Case(plan_file(LLAMA_BIASED, plan((layers(),), tp=2))),
    "tp, qwen3": Case(
        plan_file(QWEN3_TIED, plan((layers(),), tp=2, sequence_parallel=False)), (sabotage.forget_head_norm_reduction,)
    ),
    "tp, gpt2": Case(
        plan_file(GPT2, plan((layers(),), tp=2, sequence_parallel=False)), (sabotage.keep_own_input_gradient,)
    ),
    "tp with sequence parallelism, llama": Case(
        plan_file(LLAMA, plan((layers(),), tp=2)), (sabotage.forget_norm_reduction,)
    ),
    "tp with sequence parallelism, qwen3": Case(
        plan_file(QWEN3_TIED, plan((layers(),), tp=2)), (sabotage.forget_head_norm_reduction,)
    ),
    "tp with sequence parallelism, gpt2": Case(
        plan_file(GPT2, plan((layers(),), tp=2)), (sabotage.swap_queries_and_values,)
    ),
    "tp 4, odd vocabulary": Case(plan_file(model_config("gpt2", vocab_size=101), plan((layers(),), tp=4))),
    "tp and zero 3, odd vocabulary": Case(
        plan_file(model_config("qwen3", vocab_size=101), plan((layers(zero=3),), tp=2, dp_shard=2))
    ),
    "gpipe": Case(
        plan_file(QWEN3, plan((layers(1),), (layers(1),), pp=2, schedule="gpipe")),
        (sabotage.scale_by_microbatches,),
    ),
    "1f1b": Case(
        plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, microbatches=4)),
        (sabotage.lose_gradient_between_stages,),
    ),
    "1f1b, fewer microbatches than stages": Case(
        plan_file(QWEN3_4, plan(*[(layers(1),)] * 4, pp=4, microbatches=2)), (sabotage.scale_by_microbatches,)
    ),
    "1f1b, one microbatch": Case(plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, microbatches=1))),
    "uneven stages": Case(
        plan_file(GPT2_4, plan((layers(3),), (layers(1),), pp=2, microbatches=4)),
        (sabotage.lose_gradient_between_stages,),
    ),
    "interleaved": Case(
        plan_file(
            LLAMA_4,
            plan(*[(layers(1),)] * 4, pp=2, microbatches=4, schedule="interleaved-1f1b"),
        ),
        (sabotage.scale_by_microbatches,),
    ),
    "breadth-first": Case(
        plan_file(QWEN3_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=4, schedule="breadth-first")),
        (sabotage.lose_gradient_between_stages,),
    ),
    "breadth-first, zero 3": Case(
        plan_file(
            LLAMA_4,
            plan(*[(layers(1, zero=3),)] * 4, pp=2, dp_shard=2, microbatches=2, schedule="breadth-first"),
        ),
        (sabotage.lose_last_microbatch,),
    ),
    "breadth-first, uneven, zero by layer": Case(
        plan_file(
            QWEN3_4 | {"num_hidden_layers": 5},
            plan(*UNEVEN, pp=2, dp_shard=2, microbatches=2, schedule="breadth-first"),
        ),
        (sabotage.scale_by_microbatches,),
    ),
    "interleaved, uneven, zero by layer": Case(
        plan_file(
            QWEN3_4 | {"num_hidden_layers": 5},
            plan(*UNEVEN, pp=2, dp_shard=2, microbatches=2, schedule="interleaved-1f1b"),
        ),
        (sabotage.overwrite_gradients,),
    ),
    "zb-h1, zero 1": Case(
        plan_file(
            GPT2,
            plan((layers(1, zero=1),), (layers(1, zero=1),), pp=2, dp_shard=2, microbatches=2, schedule="zb-h1"),
        ),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "zb-h1, tied embedding, tp": Case(
        plan_file(QWEN3_TIED, plan((layers(1),), (layers(1),), pp=2, tp=2, microbatches=4, schedule="zb-h1")),
        (sabotage.drop_tied_sum,),
    ),
    "zb-v": Case(
        plan_file(QWEN3_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=4, schedule="zb-v")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "zb-v, fewer microbatches than stages": Case(
        plan_file(LLAMA_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=1, schedule="zb-v")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "zb-2p, zero 1": Case(
        plan_file(
            LLAMA,
            plan((layers(1, zero=1),), (layers(1, zero=1),), pp=2, dp_shard=2, microbatches=4, schedule="zb-2p"),
        ),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "v-half": Case(
        plan_file(QWEN3_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=5, schedule="v-half")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "v-half, fewer microbatches than stages": Case(
        plan_file(LLAMA_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=1, schedule="v-half")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "v-min, tp": Case(
        plan_file(LLAMA_4, plan(*[(layers(1),)] * 4, pp=2, tp=2, microbatches=4, schedule="v-min")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "dualpipe-v": Case(
        plan_file(LLAMA_4, plan(*[(layers(1),)] * 4, pp=2, microbatches=8, schedule="dualpipe-v")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "tied embedding over two stages": Case(
        plan_file(QWEN3_TIED, plan((layers(1),), (layers(1),), pp=2)), (sabotage.drop_tied_sum,)
    ),
    "tied embedding over four stages": Case(
        plan_file(GPT2_4, plan(*[(layers(1),)] * 4, pp=4, microbatches=4)), (sabotage.drop_tied_sum,)
    ),
    "full recompute": Case(
        plan_file(
            LLAMA_4, plan((layers(1, zero=3), layers(2, zero=3, recompute="full"), layers(1, zero=2)), dp_shard=2)
        ),
        (sabotage.detach_checkpoint,),
    ),
    "selective recompute": Case(
        plan_file(GPT2, plan((layers(1), SELECTIVE)), attention="unfused"), (sabotage.detach_attention_core,)
    ),
    "recompute by layer, tp": Case(
        plan_file(QWEN3_4, plan((layers(1), FULL, SELECTIVE, layers(1)), tp=2), attention="unfused"),
        (sabotage.detach_attention_core, sabotage.detach_checkpoint),
    ),
    "offload": Case(
        plan_file(LLAMA, plan((layers(zero=3),), dp_shard=2, offload=True)), (sabotage.forget_data_parallel_average,)
    ),
    "offload, one rank": Case(plan_file(GPT2, plan((layers(),), offload=True)), (sabotage.overwrite_gradients,)),
    "cp by all-gather": Case(
        plan_file(QWEN3, plan((layers(),), cp=2)),
        (
            sabotage.keep_own_key_gradients,
            sabotage.take_neighbouring_tokens,
            sabotage.count_positions_from_zero,
            sabotage.skip_all_reduce,
        ),
    ),
    "cp by all-gather, zero 3, sliding window": Case(
        plan_file({**QWEN3, **SLIDING}, plan((layers(zero=3),), cp=2)), (sabotage.keep_own_key_gradients,)
    ),
    "cp by all-gather and pp, rotation by length": Case(
        plan_file({**FAMILIES["phi3"], **LONG_ROTATION}, plan((layers(1),), (layers(1),), cp=2, pp=2)),
        (sabotage.rotate_by_tokens_in_hand,),
    ),
    "interleaved and cp by ring, dynamic rotation": Case(
        plan_file(
            {**LLAMA_4, **DYNAMIC_ROTATION},
            plan(*[(layers(1),)] * 4, pp=2, cp=2, schedule="interleaved-1f1b", context_parallel="ring"),
        ),
        (sabotage.add_blocks_unscaled,),
    ),
    "cp by ring, falcon": Case(
        plan_file(FALCON, plan((layers(zero=3),), cp=2, context_parallel="ring")), (sabotage.add_blocks_unscaled,)
    ),
    "cp by all-gather and tp, falcon": Case(
        plan_file(FALCON, plan((layers(),), cp=2, tp=2)), (sabotage.keep_own_key_gradients,)
    ),
    "cp by ulysses, falcon with one key": Case(
        plan_file(FALCON_7B, plan((layers(recompute="full"),), cp=2, context_parallel="ulysses")),
        (sabotage.drop_traded_gradients,),
    ),
    "cp by ring, zero 2": Case(
        plan_file(LLAMA, plan((layers(zero=2),), cp=2, context_parallel="ring")),
        (sabotage.lose_gradients_in_the_ring, sabotage.add_blocks_unscaled),
    ),
    "cp by ring over 4 ranks": Case(
        plan_file(GPT2, plan((layers(),), cp=4, context_parallel="ring")), (sabotage.lose_gradients_in_the_ring,)
    ),
    "cp by ulysses": Case(
        plan_file(GPT2, plan((layers(),), cp=2, context_parallel="ulysses")), (sabotage.drop_traded_gradients,)
    ),
    "cp by ulysses, sliding window, repeated kv heads": Case(
        plan_file({**QWEN3, **SLIDING}, plan((layers(zero=3),), cp=4, context_parallel="ulysses")),
        (sabotage.drop_traded_gradients,),
    ),
    "cp by ulysses and ring": Case(
        plan_file(QWEN3, plan((layers(zero=1),), cp=4, context_parallel="ulysses-ring", ulysses_degree=2)),
        (sabotage.drop_traded_gradients, sabotage.lose_gradients_in_the_ring),
    ),
    "cp by all-gather and tp": Case(
        plan_file(QWEN3_TIED, plan((layers(zero=1),), cp=2, tp=2)), (sabotage.forget_norm_reduction,)
    ),
    "cp by ulysses and tp without sequence parallelism": Case(
        plan_file(LLAMA, plan((layers(),), cp=2, tp=2, context_parallel="ulysses", sequence_parallel=False)),
        (sabotage.keep_own_input_gradient,),
    ),
    "cp by ring and dp": Case(
        plan_file(LLAMA, plan((layers(zero=3, recompute="full"),), cp=2, dp_shard=2, context_parallel="ring")),
        (sabotage.forget_data_parallel_average,),
    ),
    "cp by all-gather and hsdp": Case(
        plan_file(GPT2, plan((layers(zero=2),), cp=2, dp_replicate=2)), (sabotage.skip_all_reduce,)
    ),
    "cp by ring and 1f1b": Case(
        plan_file(LLAMA, plan((layers(1),), (layers(1),), cp=2, pp=2, context_parallel="ring")),
        (sabotage.lose_gradient_between_stages,),
    ),
    "cp by all-gather and zb-h1, tied embedding": Case(
        plan_file(QWEN3_TIED, plan((layers(1),), (layers(1),), cp=2, pp=2, microbatches=4, schedule="zb-h1")),
        (sabotage.drop_tied_sum,),
    ),
    "cp by ring, tp, pp and zero 3 on 8 ranks": Case(
        plan_file(
            LLAMA,
            plan((layers(1, zero=3),), (layers(1, zero=1),), cp=2, pp=2, tp=2, context_parallel="ring"),
        ),
        (sabotage.lose_gradients_in_the_ring,),
    ),
    "loss in chunks, zero 3, tied embedding": Case(
        plan_file(QWEN3_TIED, plan((layers(zero=3),), dp_shard=2), loss_chunks=3),
        (sabotage.lose_chunks_of_the_head, sabotage.take_labels_of_another_microbatch),
    ),
    "loss in chunks, tp, odd vocabulary": Case(
        plan_file(model_config("qwen3", vocab_size=101), plan((layers(),), tp=2), loss_chunks=4),
        (sabotage.lose_chunks_of_the_head,),
    ),
    "loss in chunks, 1f1b": Case(
        plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, microbatches=4), loss_chunks=2),
        (sabotage.take_labels_of_another_microbatch,),
    ),
    "loss in chunks, zb-h1": Case(
        plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, microbatches=4, schedule="zb-h1"), loss_chunks=2),
        (sabotage.lose_chunks_of_the_head,),
    ),
    "tp, unfused falcon, selective": Case(
        plan_file(FALCON, plan((layers(recompute="selective"),), tp=2), attention="unfused"),
        (sabotage.detach_whole_attention,),
    ),
    "selective, bloom": Case(
        plan_file(UNDIVIDED["bloom"], plan((layers(1, recompute="selective"), layers(1))), attention="unfused"),
        (sabotage.detach_whole_attention,),
    ),
    "loss in chunks, capped logits, tp": Case(
        plan_file(FAMILIES["gemma2"] | {"final_logit_softcapping": 2.0}, plan((layers(),), tp=2), loss_chunks=2),
        (sabotage.leave_logits_as_they_are,),
    ),
    "loss in chunks, scaled logits, pp": Case(
        plan_file(FAMILIES["granite"], plan((layers(1),), (layers(1),), pp=2), loss_chunks=4),
        (sabotage.leave_logits_as_they_are,),
    ),
    "loss in chunks, cp and tp": Case(
        plan_file(LLAMA, plan((layers(zero=3),), cp=2, tp=2), loss_chunks=2), (sabotage.lose_chunks_of_the_head,)
    ),
    "ep, zero 2": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(zero=2),), dp_shard=2, ep=2)),
        (sabotage.average_experts_as_dense_layers, sabotage.lose_gradients_of_sent_tokens, sabotage.confuse_experts),
    ),
    "ep, zero 3 over ranks with the same experts": Case(
        plan_file(FAMILIES["mixtral"], plan((layers(zero=3, recompute="full"),), dp_shard=4, ep=2)),
        (sabotage.average_experts_as_dense_layers,),
    ),
    "ep, experts without tokens": Case(
        plan_file(
            FAMILIES["qwen3_moe"] | {"num_experts_per_tok": 1}, plan((layers(zero=1),), dp_shard=4, ep=4), seq_len=2
        ),
        (sabotage.lose_gradients_of_sent_tokens,),
    ),
    "ep, hsdp, shared expert": Case(
        plan_file(FAMILIES["qwen2_moe"], plan((layers(zero=1),), dp_replicate=2, dp_shard=2, ep=2)),
        (sabotage.skip_all_reduce,),
    ),
    "ep over cp": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(),), cp=2, ep=2)), (sabotage.average_experts_as_dense_layers,)
    ),
    "ep over tp": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(),), tp=2, ep=2)), (sabotage.send_tokens_of_every_tp_rank,)
    ),
    "ep over dp and tp": Case(
        plan_file(FAMILIES["deepseek_v3"], plan((layers(zero=3),), dp_shard=2, tp=2, ep=4)),
        (sabotage.send_tokens_of_every_tp_rank, sabotage.average_experts_as_dense_layers),
    ),
    "ep beside tp": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(zero=3),), dp_shard=2, tp=2, ep=2)),
        (sabotage.lose_gradients_of_sent_tokens,),
    ),
    "ep and etp, zero 2": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(zero=2),), dp_shard=2, tp=2, ep=2, etp=2)),
        (sabotage.share_tokens_beside_columns, sabotage.average_experts_as_dense_layers),
    ),
    "ep and etp inside tp 4": Case(
        plan_file(FAMILIES["mixtral"] | {"num_key_value_heads": 4}, plan((layers(),), tp=4, ep=2)),
        (sabotage.send_tokens_of_every_tp_rank,),
    ),
    "ep and etp, hsdp on 8 ranks": Case(
        plan_file(FAMILIES["deepseek_v3"], plan((layers(zero=1),), dp_replicate=2, dp_shard=2, tp=2, ep=2, etp=2)),
        (sabotage.skip_all_reduce,),
    ),
    "ep, zb-h1": Case(
        plan_file(
            FAMILIES["mixtral"],
            plan((layers(1, zero=1),), (layers(1, zero=1),), pp=2, dp_shard=2, ep=2, microbatches=4, schedule="zb-h1"),
        ),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "ep, cp, pp and zero 3 on 8 ranks": Case(
        plan_file(
            FAMILIES["qwen3_moe"],
            plan((layers(1, zero=3),), (layers(1, zero=2),), pp=2, dp_shard=2, cp=2, ep=4, context_parallel="ring"),
        ),
        (sabotage.lose_gradients_of_sent_tokens, sabotage.lose_gradients_in_the_ring),
    ),
    "all at once on 8 ranks, gpt2": Case(
        plan_file(
            GPT2,
            plan(
                (layers(1, zero=3, recompute="full"),),
                (layers(1, zero=2),),
                pp=2,
                dp_shard=2,
                tp=2,
                microbatches=4,
                offload=True,
            ),
        ),
        (sabotage.drop_tied_sum,),
    ),
    "all at once on 8 ranks, qwen3": Case(
        plan_file(
            QWEN3_4,
            plan(
                *[(layers(1, zero=3, recompute="selective"),), (layers(1, zero=1, recompute="full"),)] * 2,
                pp=2,
                dp_shard=2,
                tp=2,
                schedule="interleaved-1f1b",
            ),
            attention="unfused",
        ),
        (sabotage.forget_head_norm_reduction,),
    ),
    "hsdp and tp on 8 ranks, llama": Case(
        plan_file(LLAMA, plan((layers(1, zero=3), layers(1, zero=2)), dp_replicate=2, dp_shard=2, tp=2)),
        (sabotage.skip_all_reduce,),
    ),
}
