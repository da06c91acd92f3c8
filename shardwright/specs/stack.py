"""The software stack that trains: a few physical properties in which frameworks differ, not corrections.


The named stacks stand in stacks.toml beside this file.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, get_args

from pydantic import Field

from shardwright.base import SpecError, nearest

from .mesh import PIPELINE_OUTERMOST, MeshOrder
from .plan import (
    CONTEXT_PARALLEL,
    EXPERT_DISPATCH,
    POLICIES,
    ContextParallel,
    ExpertDispatch,
    RecomputePolicy,
    VocabularyParallel,
    ZeroStage,
)
from .schedules import EXACT_SCHEDULES, ScheduleName
from .spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, Spec
from .trainable import BaseFormat

SelectiveRecompute = Literal["attention-core", "alternate-matmuls", "elementwise", "all-but-weight-matmuls"]
AttentionKernel = Literal["flash-1", "flash-2", "flash-3"]
StageOutputs = Literal["released", "logits", "all"]
MergedResults = Literal["fp32", "fp32-in-rings", "fused"]
RecomputeModule = Literal["core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts"]
LinearContext = Literal["states", "pieces", "heads"]
LinearFormat = Literal["fp8", "fp8-rowwise", "fp8-rowwise-gw-hp", "mxfp8", "nvfp4"]

OWN_STACK = "shardwright"


class SplitBackward(Spec):
    """What a software runs together with schedules that split the backward (`splits_backward`).

    `zero_stages`, `recompute`: the values of these choices. `tied_in_a_v`: whether the first and the last stage may share the
    weights of embedding and head where both lie on one rank.
    """

    zero_stages: tuple[ZeroStage, ...] = get_args(ZeroStage)
    recompute: tuple[RecomputePolicy, ...] = POLICIES
    tied_in_a_v: bool = True


class Runs(Spec):
    """What a software can run; the planner offers nothing else for it.

    `schedules`: of a pipeline; empty where it has none. `zero_stages`: 0 is plain data parallelism. `uneven_stages`: stages may
    hold different numbers of layers. `context_parallel`, `expert_dispatch`: the ways to exchange keys and values and to send
    tokens to experts; empty where there is no such axis. `split_backward`: what goes with a schedule that splits the backward.
    `linear_formats`: lower formats of the layers' weight matmuls, and `lowers_experts` whether experts have them too, or stay in the compute format. `orders`: in which the axes may lie over the machine
    (`Mesh.order`). `vocabulary_parallel`: how the ranks of a pipeline may share embedding and head. `loss_chunks`: head and loss may run in pieces of a microbatch (`TrainingSpec.loss_chunks`), `sequence_chunks`: dense layers may.
    `offload_fractions`: a part of the optimizer may be on the host; otherwise all of it or none. `delays_update`: the host's update may be one step late. `streams_shards`: weights that data-parallel ranks shard
    may come from the host for each pass without being gathered again. `undivided_attention`: kinds of
    attention with which context parallelism does not go. `linear_context`: how the ranks of cp exchange in linear attention, by the state, by the states of pieces, or by heads
    (costmodel/layers/exchanges/linear.py); None where cp does not go with it; `mamba_context`: the same of Mamba-2. `undivided_families`: families whose layers tensor parallelism does not divide;
    "alibi" for all with a bias by distance. `frozen_formats`: of weights beside adapters; those lower than the compute format are divided over tp, and are of experts too,
    where it `divides_quantized`, but for `unquantized_families`. `unspread_families`: those whose experts expert parallelism does not spread. `shares_biased_experts`: several ranks may have the columns of one expert with biases.
    """

    schedules: tuple[ScheduleName, ...] = EXACT_SCHEDULES
    tensor_parallel: bool = True
    zero_stages: tuple[ZeroStage, ...] = get_args(ZeroStage)
    uneven_stages: bool = True
    offload_optimizer: bool = True
    context_parallel: tuple[ContextParallel, ...] = CONTEXT_PARALLEL
    expert_dispatch: tuple[ExpertDispatch, ...] = EXPERT_DISPATCH
    split_backward: SplitBackward = SplitBackward()
    linear_formats: tuple[LinearFormat, ...] = ()
    lowers_experts: bool = True
    loss_chunks: bool = False
    offload_fractions: bool = False
    delays_update: bool = False
    sequence_chunks: bool = False
    streams_shards: bool = True
    undivided_attention: tuple[Literal["unfused", "alibi"], ...] = ()
    linear_context: LinearContext | None = None
    mamba_context: LinearContext | None = None
    undivided_families: tuple[str, ...] = ()
    unspread_families: tuple[str, ...] = ()
    shares_biased_experts: bool = True
    frozen_formats: tuple[BaseFormat, ...] = get_args(BaseFormat)
    divides_quantized: bool = True
    unquantized_families: tuple[str, ...] = ()
    vocabulary_parallel: tuple[VocabularyParallel, ...] = ()
    orders: tuple[MeshOrder, ...] = (PIPELINE_OUTERMOST,)


class Stack(Spec):
    """Properties of one training framework.

    Attributes:
        about: which software this is, and the source of its properties.
        fused_norms: a norm is one kernel that keeps only its input; otherwise it runs as in eager PyTorch.
        fused_elementwise: activation, rotary embedding and residual are fused into one pass each (torch.compile, hand-written
            kernels).
        fused_expert_activation: the activation of experts is one kernel, even where other elementwise work is not fused.
        fused_loss: the cross-entropy is one kernel that reads the logits in the compute format and keeps no fp32 copy.
        fused_operands: scales are those of earlier steps (Transformer Engine's delayed scaling), so that a norm writes the
            operand of the matmul after it, which is kept. Otherwise each operand's scale comes from its own values.
        casts_both_layouts: one kernel reads an operand and writes both of its layouts (Transformer Engine's cast_transpose and
            its block quantisers), and weights are cast once a step. Otherwise a kernel for each layout, and weights are cast
            in every pass.
        joined_projections: one matmul makes queries, keys and values, and one makes gate and up; otherwise several matmuls
            read the same input, and the gradients that they give of it are added.
        kernels_forward, kernels_backward: launches of one layer.
        router_kernels_forward, router_kernels_backward: launches that a layer of experts has besides: routing, sorting, weighing.
        gate_kernels_forward, gate_kernels_backward: those of them that choose experts, before tokens are sorted and sent; a graph
            of the router has them.
        fused_permutation: tokens are sorted by expert, and weighed and summed when they come back, in one kernel each way;
            otherwise operator by operator.
        weighs_tokens_in_fp32: tokens are gathered for the experts, multiplied by their weights in fp32 and added up again by a kernel
            for each of these steps, and the copy in fp32 stays for the gradient of the weights (torchtitan, models/moe/moe.py).
            `fused_permutation` and `keeps_expert_outputs` then say nothing.
        expert_kernels_forward, expert_kernels_backward: launches for each expert that a rank holds; 0 where one grouped kernel
            runs them all.
        gathered_module_kernels_forward, gathered_module_kernels_backward: as many launches take the host as long as hooks that fetch
            and release the weights of one linear under ZeRO-3, and hand its gradient on (python -m shardwright.benchmarks.zero_hooks).
        reduced_module_kernels_backward: the same for the hook that hands its gradient on under ZeRO-2.
        overlaps_reduction: gradients are reduced during the backward pass; otherwise after it.
        defers_reduction: in a pipeline, ZeRO 2 and 3 sum whole gradients over the microbatches and reduce them once a step, as
            torch's own schedules do (torch/distributed/pipelining/stage.py, backward_maybe_with_nosync). Otherwise each
            microbatch reduces into the rank's shard.
        reduces_by_stage: such a stage reduces behind its own last backward pass, so that its summed gradients are then free (until torch 2.10,
            pytorch pull request 165106); otherwise all stages of a rank reduce at the end of the step.
        holds_receive_buffers: in a pipeline a stage has a buffer for what it receives of each microbatch, forward and backward, from the
            first step on (torch/distributed/pipelining/stage.py, _create_act_recv_info and _create_grad_recv_info).
        stage_outputs: what torch's stages keep of every microbatch to the end of the step: "logits" of the last stage in the compute
            format, which the schedule returns (until return_outputs = False of torch 2.10, pytorch pull request 165822); "all", also
            the hidden states that other stages gave and the gradients of what they received (until torch 2.8, pull request 153383,
            and 2.10, pull request 164329); otherwise "released".
        copies_gathered: gathered parameters are copied out of the communication buffer beside no compute (FSDP2).
        copies_gradients: gradients are copied into a buffer before they are reduced (FSDP1 and FSDP2).
        sums_gradients_in_matmuls: the matmul of a weight's gradient adds it to the sum over microbatches, in the format of the reduction;
            otherwise a kernel adds it.
        overlaps_gather: parameters are gathered during the forward pass; otherwise before it.
        tensor_parallel_overlap: share of tensor-parallel communication that runs in pieces beside the matmul that feeds or
            reads it.
        overlaps_input_gradients: so does the reduction of gradients that several matmuls give of their common input. torch's compiler adds
            them up first, and takes into pieces only a reduction right behind a matmul (torch/_inductor/fx_passes/micro_pipeline_tp.py).
        attention_kernel: the generation of the fused attention kernel: "flash-1" (FlashAttention of 2022 and its Triton
            versions), "flash-2", or "flash-3", which stands for kernels written for the GPU from Hopper on (FlashAttention-3 and
            4, cuDNN) and runs like flash-2 before Hopper.
        merges_partial_results: how context parallelism adds up what blocks of keys give: "fp32" (torch's own, which keeps the
            sums in fp32, sends gradients so, and adds up blocks after a gather too; ring-flash-attention), "fp32-in-rings" (the same
            round a ring; after a gather each of a rank's two chunks attends once, and what was gathered stays for the backward,
            which reduce-scatters the gradients in the compute format: this project's executor) or "fused"
            (Transformer Engine: one kernel a block, in the compute format). costmodel/layers/exchanges/partial_results.py.
        overlaps_passes: a forward and a backward that DualPipe pairs run at once, each computing while the other communicates;
            otherwise one runs after the other.
        shard_network_fraction: share of the steady rate between nodes that ZeRO-3's collectives over the shards reach, where
            the shards lie on several nodes.
        keeps_gradient_buffer: under ZeRO 0 and 1 gradients have a buffer of the whole model for the whole step, even with a
            single microbatch.
        unsettled: its runs vary for reasons that no plan shows, so that an estimate is less sure.
        pads_vocabulary: the vocabulary is padded so that a rank holds a multiple of 128 words.
        dropout: dropout after both sublayers; its masks are kept.
        embeds_by_matmul: the embedding is a matmul of one-hot rows, one for each token, with the table; otherwise a gather.
        selective: what selective recompute repeats: the attention core (scores and softmax, Korthikanti et al. 2022), every
            second matmul and all that is no matmul (torchtitan), only what is no matmul (MaxText's minimal_flash), or that
            and the attention core (JAX's dots_with_no_batch_dims_saveable).
        recompute_modules: those that a job may name for selective recompute to repeat, by Megatron-Core's names.
        transformers_layers: layers run as transformers writes them, in eager PyTorch. What autograd saves of them is counted
            tensor by tensor (costmodel/layers/saved).
        stops_recompute_early: full recompute ends once it has all that the backward pass reads, so that a layer's last
            matmul is not repeated (torch.utils.checkpoint without reentrance).
        weighs_norms_in_fp32: an eager RMS norm multiplies by its weight in fp32 (torch.nn.RMSNorm before it had a kernel of its
            own: aten/src/ATen/native/layer_norm.cpp).
        repeats_heads: keys and values are copied for each query head before attention, and kept so (torchtitan's repeat_kv).
        agrees_on_scales: the ranks of tp and of cp, which hold parts of a linear's operands, agree on the scale of each before it is cast
            (this project's executor, low_precision/scaled.py).
        recasts_operands: 8-bit and 4-bit operands of weight gradients are made again in the backward pass, from what norms,
            activations and attention read or wrote, as torch.compile divides a graph. Only that of attention's output is
            kept, beside the output itself.
        keeps_unread: selective recompute caches the result of every chosen operator, even if no backward pass reads it.
        keeps_expert_outputs: the outputs of the experts stay for the gradient of their weights. Megatron-Core multiplies the
            weights into the activation before the second matmul instead (experts.py, weighted_bias_swiglu_impl).
        adds_biases_by_expert: the bias of the experts' second matmul is weighed and added expert by expert, in fp32 (Megatron-Core,
            experts.py, _apply_bias).
        loss_gradients_in_forward: a loss in pieces leaves gradients when the head's forward ends: that of its input, which is then not
            kept, and that of its weight, summed in fp32 and kept in the compute format (this project's executor, parallel/chunked_loss.py).
        keeps_logits: the logits in the compute format stay alive beside their fp32 copies.
        fp32_logit_copies: tensors in fp32 as large as the logits that are alive at once in the loss.
        split_logit_copies: the same where tensor parallelism splits the vocabulary, if it differs. DTensor's loss_parallel has
            four in its backward: softmax, zeros, exponential and their sum (torch/distributed/tensor/parallel/loss.py).
        regathers_inputs: under sequence parallelism a matmul keeps its rank's part of its input and gathers the rest again in
            the backward pass; otherwise it keeps the whole input.
        divides_latents: under sequence parallelism projections down to latents compute with a rank's own tokens, and latents are gathered in
            place of hidden states.
        gradients: the format in which gradients are kept and reduced, where the software fixes it.
        parameters: the format of parameters and optimizer state, where the software fixes it.
        widens_gradients: 16-bit gradients are copied to fp32 for the update, each in a tensor of its own.
        step_copies: temporaries of the optimizer step, as many elements each as the rank's shard and in its format, in separate
            tensors. They reuse what activations have freed. AdamW by foreach kernels has one, the root of the second moment
            (torch/optim/adam.py, _multi_tensor_adam); a fused kernel has none.
        allocator_slack: what the caching allocator holds without use, as a share of what is not held over the whole step, where it is
            more than the cost model's constants say; None where nobody measured it.
        context_bytes: what a process of it holds on a device besides its tensors and the device's own context: kernels that libraries
            load, and the allocator's first blocks.
        widens_adapter_inputs: the input of an adapter whose weights are in fp32 goes to fp32 and back, as PEFT and autocast cast it
            (peft/tuners/lora/layer.py, _cast_input_dtype), unless the frozen linear is quantised.
        widens_norms: beside linears quantised by bitsandbytes norms lie in fp32. Their results are in fp32 then, and so is what such a
            linear gives for them (bitsandbytes, nn/modules.py, Linear4bit.forward), so that the stream between layers and the
            feed-forward are in fp32. The embedding and the head are cast back (trl, peft_module_casting_to_bf16).
        holds_frozen_inputs: where layers are sharded and frozen, the input of each layer and its gradient stay to the end of the
            backward pass: FSDP1's hook that frees frozen weights is on these inputs, and autograd's node for several of them holds
            both (torch/distributed/fsdp/_runtime_utils.py, _register_post_backward_reshard_only_hook; torch/autograd/graph.py,
            register_multi_grad_hook).
        foreach_update: the update runs operator by operator over lists of tensors, as torch's foreach kernels do; otherwise in
            one fused kernel.
        flat_step_bytes_per_parameter: buffers of the step as long as the whole shard, per parameter of the rank's shard. No
            freed activation can hold one, so the allocator reserves them beside the activations.
        flat_gradient_copies: under ZeRO 0 and 1, flat copies of all gradients of the rank, reserved in the same way where the
            device updates.
        splits_sends: without sequence parallelism too, a message between stages is split over the tensor-parallel ranks and
            gathered among the receivers (scatter/gather optimisation, Narayanan et al. 2021, arXiv 2104.04473, section 4.1);
            otherwise each rank sends the whole message.
        counts_ends: the pipeline's layout counts the embedding and the head as a layer each, so that the first and the last of
            interleaved stages hold one layer less, or none (account_for_embedding_in_pipeline_split and its like for the loss).
        updates_side_by_side: where a part of the optimizer is on the host, its cores update that part while the device updates the
            rest (Megatron-Core, optimizer/cpu_offloading/hybrid_optimizer.py, step: kernels of the device are launched first);
            otherwise one after the other (DeepSpeed, zero/stage3.py, step: group after group).
        counts_exchanges: exchanges over tp are counted one by one, as dry runs of this project's executor trace them
            (costmodel/layers/exchanges/counted.py). Otherwise the embedding, the head and each recomputed layer have a gather and a
            reduction in each pass, and the gradients of norms are not summed; the constants are fitted with that.
        gather_copies, scatter_copies: under sequence parallelism, how often the whole hidden states are read or written besides, after
            a gather and before a reduction. torch's collectives divide the first dimension, layers the second, so that chunks are
            joined to a new tensor there (torch/distributed/_functional_collectives.py). A compiler that casts what was gathered
            reads it for that anyway. Asynchronous tensor parallelism adds up the parts that ranks sent to it
            (_symmetric_memory/__init__.py, stacked_partials).
        views_single_gather: a microbatch of one sequence lies right after a gather (torch since 2.10, pytorch pull request 169404).
        broadcasts_updates: each owner of a ZeRO-1 shard broadcasts its updated parameters in turn; otherwise one all-gather.
        runs: the schedules, axes and placements that it can run.
    """

    name: str
    about: str
    fused_norms: bool = False
    fused_elementwise: bool = False
    fused_expert_activation: bool = False
    fused_loss: bool = False
    fused_operands: bool = False
    casts_both_layouts: bool = False
    agrees_on_scales: bool = False
    joined_projections: bool = False
    kernels_forward: PositiveFloat = 34.0
    kernels_backward: PositiveFloat = 69.0
    router_kernels_forward: NonNegativeFloat = 27.0
    router_kernels_backward: NonNegativeFloat = 38.0
    gate_kernels_forward: NonNegativeFloat = 3.0
    gate_kernels_backward: NonNegativeFloat = 7.0
    fused_permutation: bool = True
    weighs_tokens_in_fp32: bool = False
    expert_kernels_forward: NonNegativeFloat = 0.0
    expert_kernels_backward: NonNegativeFloat = 0.0
    gathered_module_kernels_forward: NonNegativeFloat = 0.0
    gathered_module_kernels_backward: NonNegativeFloat = 0.0
    reduced_module_kernels_backward: NonNegativeFloat = 0.0
    overlaps_reduction: bool = True
    defers_reduction: bool = False
    reduces_by_stage: bool = False
    holds_receive_buffers: bool = False
    stage_outputs: StageOutputs = "released"
    copies_gathered: bool = True
    copies_gradients: bool = True
    sums_gradients_in_matmuls: bool = False
    overlaps_gather: bool = True
    tensor_parallel_overlap: Annotated[float, Field(ge=0, le=1)] = 0.0
    overlaps_input_gradients: bool = True
    attention_kernel: AttentionKernel = "flash-2"
    merges_partial_results: MergedResults = "fp32"
    overlaps_passes: bool = False
    shard_network_fraction: PositiveFloat = 1.0
    keeps_gradient_buffer: bool = False
    dropout: bool = False
    embeds_by_matmul: bool = False
    unsettled: bool = False
    pads_vocabulary: bool = False
    selective: SelectiveRecompute = "attention-core"
    recompute_modules: tuple[RecomputeModule, ...] = ()
    transformers_layers: bool = False
    stops_recompute_early: bool = True
    weighs_norms_in_fp32: bool = False
    repeats_heads: bool = False
    recasts_operands: bool = False
    keeps_unread: bool = False
    keeps_expert_outputs: bool = True
    adds_biases_by_expert: bool = False
    loss_gradients_in_forward: bool = False
    keeps_logits: bool = True
    fp32_logit_copies: NonNegativeInt = 3
    split_logit_copies: NonNegativeInt | None = None
    regathers_inputs: bool = False
    divides_latents: bool = False
    gradients: Literal["fp32", "bf16"] | None = None
    parameters: Literal["fp32", "bf16"] | None = None
    widens_gradients: bool = False
    step_copies: NonNegativeFloat = 0.0
    allocator_slack: NonNegativeFloat | None = None
    context_bytes: NonNegativeFloat = 0.0
    widens_adapter_inputs: bool = False
    widens_norms: bool = False
    holds_frozen_inputs: bool = False
    foreach_update: bool = False
    flat_step_bytes_per_parameter: NonNegativeFloat = 0.0
    flat_gradient_copies: NonNegativeFloat = 0.0
    splits_sends: bool = False
    counts_ends: bool = False
    updates_side_by_side: bool = False
    counts_exchanges: bool = False
    gather_copies: NonNegativeFloat = 0.0
    scatter_copies: NonNegativeFloat = 0.0
    views_single_gather: bool = False
    broadcasts_updates: bool = False
    runs: Runs = Runs()

    @property
    def fuses_casts(self) -> bool:
        """Whether a cast to a lower format is one or two kernels, as compilers and libraries write them; otherwise a chain of
        eager PyTorch's."""
        return self.fused_elementwise or self.casts_both_layouts

    @property
    def hooks_modules(self) -> bool:
        """Whether hooks of each linear take the host's time under ZeRO-2 or ZeRO-3."""
        return self.gathered_module_kernels_forward + self.reduced_module_kernels_backward > 0

    @property
    def loops_over_experts(self) -> bool:
        """Whether each expert has kernels of its own; otherwise one grouped kernel runs them all."""
        return self.expert_kernels_forward > 0

    @property
    def fixed_formats(self) -> dict[str, str]:
        """The formats that the software fixes, by their names in `Precision`."""
        formats = {"gradients": self.gradients, "parameters": self.parameters}
        return {name: value for name, value in formats.items() if value is not None}


@cache
def _stacks() -> dict[str, Stack]:
    """Every stack by name. An entry with `like` takes what it leaves out from that earlier stack."""
    entries: dict[str, dict[str, object]] = {}
    for name, entry in tomllib.loads((files(__package__) / "stacks.toml").read_text(encoding="utf-8")).items():
        entries[name] = (entries[entry.pop("like")] if "like" in entry else {}) | entry
    return {
        name: Stack.parse({"name": name, **entry}, source=f"stacks.toml [{name}]") for name, entry in entries.items()
    }


def stack_names() -> tuple[str, ...]:
    """Every stack there is."""
    return tuple(_stacks())


def named_stack(name: str) -> Stack:
    """The stack called `name`.

    Raises:
        SpecError: there is none; names the nearest.
    """
    if name not in _stacks():
        allowed = ", ".join(stack_names())
        raise SpecError(f"stack '{name}' is not known; allowed: {allowed}.{nearest(name, stack_names())}")
    return _stacks()[name]
