"""What is trained on: sequence length, batch, precision, optimizer, attention kernel."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from .lengths import Lengths, Packing, Pieces
from .optimizers import Optimizer, OptimizerName, OptimizerSettings, check_settings, fields_of_text
from .spec import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from .stack import OWN_STACK, Stack, named_stack
from .stack import LinearFormat as LinearFormat  # re-exported here, because it is a field of a precision
from .stack import RecomputeModule as RecomputeModule  # likewise of a training
from .trainable import Trainable

MOST_PER_STEP = 2**31 - 1  # far beyond any run, and small enough to list its divisors

MOST_LOSS_CHUNKS = 4096  # more pieces than any kernel makes; each costs launches

DType = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]
BYTES_PER_ELEMENT: dict[str, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
MOST_MTP_LAYERS = 64
MOST_TOKENS_PER_CENTROID = 1 << 14
CudaGraphs = Literal["none", "router", "attention", "attention+router", "whole"]


def _known_stack(name: str) -> str:
    return named_stack(name).name


class Precision(Spec):
    """Number formats per tensor kind.

    `compute`: matmul inputs, activations and gathered parameters. `parameters`: the copy that the optimizer updates,
    and the format of its state.
    `gradients`: accumulation and reduction. `linear`: the format of the layers' weight matmuls where it is lower than
    `compute` (costmodel/layers/precision.py). `gather`: the format in which ZeRO gathers a layer's weights and sequence
    parallelism gathers its inputs, where it is lower.
    """

    compute: Literal["fp32", "tf32", "bf16", "fp16"] = "bf16"
    parameters: Literal["fp32", "bf16"] = "fp32"
    gradients: Literal["fp32", "bf16"] = "fp32"
    linear: LinearFormat | None = None
    gather: Literal["fp8"] | None = None

    @model_validator(mode="after")
    def _gathers_what_matmuls_read(self) -> Self:
        if self.gather and self.linear != self.gather:
            raise ValueError(
                f"gather '{self.gather}' needs linear '{self.gather}', not {self.linear!r}: matmuls read what was gathered"
            )
        return self

    @property
    def parameter_bytes_per_element(self) -> int:
        """Bytes per element of the copy that the optimizer updates, of each of its states, and of the gradient that it reads."""
        return BYTES_PER_ELEMENT[self.parameters]

    @property
    def activation_bytes_per_element(self) -> int:
        return BYTES_PER_ELEMENT[self.compute]

    @property
    def gathered_bytes_per_element(self) -> int:
        """Bytes per element of a layer's weights and inputs when they are gathered for its matmuls."""
        return BYTES_PER_ELEMENT[self.gather or self.compute]

    @property
    def gradient_bytes_per_element(self) -> int:
        return BYTES_PER_ELEMENT[self.gradients]


class TrainingSpec(Spec):
    """One optimizer step's worth of work: `global_batch` sequences of `seq_len` tokens.

    `fp8_attention`: a fused attention kernel works in 8 bits, on copies of its inputs.
    `stack`: name of the software that trains (stacks.toml); by default this project's executor.
    `high_precision_layers`: layers whose weight matmuls stay in `compute` where `linear` is lower, as recipes keep the first and
    the last ones; the cost model counts them as spread evenly.
    `expert_imbalance`: tokens of the busiest expert-parallel rank over the mean; 1 where routing is forced to be even.
    `loss_chunks`: pieces of a microbatch's tokens in which head and loss run, each forward and backward before the next, so
    that the logits of one piece are alive at once (Liger's fused linear cross-entropy, torchtitan's loss chunks).
    `mlp_tiles`: pieces of a microbatch's tokens in which a dense feed-forward runs. Its backward runs each piece's forward again, so
    that the layer keeps only its input and the tensors of one piece are alive (Bekman et al. 2025, ALST, arXiv 2506.13996, tiled MLP).
    `sequence_chunks`: pieces of a microbatch's tokens in which dense layers run, attention and all. A layer keeps its input, its keys and its values,
    and its backward runs the pieces again from last to first, so that the tensors of one piece are alive (Luo et al. 2025, StreamBP, arXiv 2506.03077).
    `routing`: where the experts of one token lie: anywhere, or next to each other, as a benchmark's fake gate assigns them.
    `expert_capacity`: every expert computes this many times its even share of tokens, and drops or pads; None drops nothing.
    `overlaps_dispatch`: while one microbatch's tokens travel to their experts and back, another microbatch computes its
    opposite pass (Megatron-Core, --overlap-moe-expert-parallel-comm); in a layer with a shortcut around them, its own dense branch.
    `dispatch_multiprocessors`: those that the kernels of this exchange take from that compute; None for as many as collectives
    take. Megatron-Core gives DeepEP 20 and HybridEP 16 (transformer_config.py, moe_deepep_num_sms, moe_hybridep_num_sms).
    `dispatch_pieces`: pieces of a layer's tokens that travel to their experts and back while these compute other pieces (FSMoE, Tutel).
    `tokens_per_centroid`: tokens of one expert that travel to it and are computed as their mean, where experts lie on several ranks. Tokens that
    hash alike are averaged, and each gets back what it differs from the mean by (Nie et al. 2024, LSH-MoE, arXiv 2411.08446, section
    3.2). 1 sends every token; more changes the gradient on purpose (`approximate`).
    `hot_experts`: so many of each layer's experts, those with the most tokens, lie on every rank of ep for a step, from where their owners give
    and get them; the others are dealt by their load (Qing et al. 2025, Hecate, arXiv 2502.02581). `expert_imbalance` is then that without it.
    `global_balance`: the load-balancing loss of routers counts how often experts are chosen over the data-parallel ranks of a microbatch,
    not on each alone (Qiu et al. 2025, arXiv 2501.11873, section 3; Megatron-Core, --moe-router-load-balancing-type global_aux_loss).
    `mtp_layers`: multi-token prediction layers behind the last layer, each with the head and its loss once more.
    `activation_offload_layers`: layers of each rank whose activations go to the host between forward and backward (Megatron-Core,
    --cpu-offloading-num-layers).
    `recompute_modules`: what selective recompute repeats, by Megatron-Core's names; empty: what the stack repeats.
    `cuda_graphs`: what the host launches as one graph: nothing, each layer's router, its attention, both, or the whole step.
    `optimizer_settings`: where they differ from the optimizer's own; `optimizer` reads `galore:rank=1024` as both.
    `trainable`: what is trained: every weight, adapters beside frozen weights, or the last layers.
    `lengths`: how long documents are; None where each fills its sequence. `packing` says what a sequence of `seq_len` tokens
    then holds: documents one after the other, of which each attends to itself alone ("packed"), or one, with padding ("padded").
    """

    seq_len: Annotated[PositiveInt, Field(le=MOST_PER_STEP)]
    global_batch: Annotated[PositiveInt, Field(le=MOST_PER_STEP)]
    precision: Precision = Precision()
    optimizer: OptimizerName = "adamw"
    optimizer_settings: OptimizerSettings = OptimizerSettings()
    attention: Literal["flash", "unfused"] = "flash"
    fp8_attention: bool = False
    stack: Annotated[str, AfterValidator(_known_stack)] = OWN_STACK
    expert_imbalance: Annotated[PositiveFloat, Field(ge=1)] = 1.0
    expert_capacity: PositiveFloat | None = None
    loss_chunks: Annotated[PositiveInt, Field(le=MOST_LOSS_CHUNKS)] = 1
    mlp_tiles: Annotated[PositiveInt, Field(le=MOST_LOSS_CHUNKS)] = 1
    sequence_chunks: Annotated[PositiveInt, Field(le=MOST_LOSS_CHUNKS)] = 1
    routing: Literal["random", "consecutive"] = "random"
    overlaps_dispatch: bool = False
    dispatch_multiprocessors: PositiveInt | None = None
    dispatch_pieces: PositiveInt = 1
    hot_experts: NonNegativeInt = 0
    tokens_per_centroid: Annotated[PositiveInt, Field(le=MOST_TOKENS_PER_CENTROID)] = 1
    global_balance: bool = False
    high_precision_layers: NonNegativeInt = 0
    mtp_layers: Annotated[NonNegativeInt, Field(le=MOST_MTP_LAYERS)] = 0
    activation_offload_layers: NonNegativeInt = 0
    recompute_modules: tuple[RecomputeModule, ...] = ()
    cuda_graphs: CudaGraphs = "none"
    trainable: Trainable = Trainable()
    lengths: Lengths | None = None
    packing: Packing = "packed"

    @model_validator(mode="after")
    def _hides_dispatch_in_one_way(self) -> Self:
        if self.dispatch_pieces > 1 and self.overlaps_dispatch:
            raise ValueError(
                f"dispatch_pieces {self.dispatch_pieces} hides the exchange beside the layer's own experts, overlaps_dispatch beside other "
                "compute; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _averages_in_own_software(self) -> Self:
        if self.tokens_per_centroid > 1 and self.stack != OWN_STACK:
            raise ValueError(
                f"tokens_per_centroid {self.tokens_per_centroid}: stack {self.stack} sends every token to its experts; leave it out, or use "
                f"stack {OWN_STACK}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _settings_in_the_name(cls, given: object) -> object:
        """Read `optimizer: "galore:rank=1024"` as name and settings."""
        if not isinstance(given, dict) or not isinstance(given.get("optimizer"), str):
            return given
        read = fields_of_text(given["optimizer"])
        if not read["settings"]:
            return {**given, "optimizer": read["name"]}
        if given.get("optimizer_settings"):
            raise ValueError(
                f"optimizer '{given['optimizer']}' has settings, and optimizer_settings too; give one of them"
            )
        return {**given, "optimizer": read["name"], "optimizer_settings": read["settings"]}

    @model_validator(mode="after")
    def _optimizer_fits(self) -> Self:
        check_settings(self.optimizer, self.optimizer_settings)
        if self.method.whole_matrix and not self.trainable.trains_all:
            raise ValueError(
                f"optimizer {self.optimizer} updates whole matrices of every layer, not trainable '{self.trainable}'; "
                "give adamw, sgd, lion or adamw8bit, or trainable all"
            )
        return self

    @field_validator("recompute_modules", mode="before")
    @classmethod
    def _separate(cls, given: object) -> object:
        """Read `core_attn+moe_act` too, and count each module once."""
        named = [name.strip() for name in given.split("+") if name.strip()] if isinstance(given, str) else given
        return tuple(dict.fromkeys(named)) if isinstance(named, list | tuple) else given

    @model_validator(mode="after")
    def _has_modules(self) -> Self:
        known = self.software.recompute_modules
        if others := [name for name in self.recompute_modules if name not in known]:
            runs = f"repeats {'+'.join(known)} only" if known else "names none"
            raise ValueError(
                f"recompute_modules {'+'.join(others)}: stack {self.stack} {runs}; leave them out, or use stack megatron-core or nemo"
            )
        return self

    @model_validator(mode="after")
    def _has_a_lower_format(self) -> Self:
        if self.high_precision_layers and self.precision.linear is None:
            raise ValueError(
                f"high_precision_layers {self.high_precision_layers} are exceptions from a lower format of the weight matmuls, "
                "and precision.linear names none; set it (--linear-precision), or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _reads_one_format(self) -> Self:
        if self.trainable.base != "compute" and self.precision.linear is not None:
            raise ValueError(
                f"trainable '{self.trainable}' keeps frozen weights in {self.trainable.base} and multiplies in "
                f"{self.precision.compute}, not in linear '{self.precision.linear}'; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _fuses_fp8_attention(self) -> Self:
        if self.fp8_attention and self.attention != "flash":
            raise ValueError(
                f"fp8_attention needs attention 'flash', not '{self.attention}': only a fused kernel works in 8 bits"
            )
        return self

    @property
    def approximate(self) -> bool:
        """Whether the training changes gradients on purpose where tokens travel to experts (`tokens_per_centroid`)."""
        return self.tokens_per_centroid > 1

    @property
    def software(self) -> Stack:
        """The properties of `stack`."""
        return named_stack(self.stack)

    @property
    def method(self) -> Optimizer:
        """The optimizer with its settings; `str()` of it is what `--optimizer` takes."""
        return Optimizer(name=self.optimizer, settings=self.optimizer_settings)

    @property
    def stream_bytes_per_element(self) -> int:
        """Bytes of an element of the stream between layers, of norms' results and of the feed-forward."""
        widened = self.software.widens_norms and self.trainable.base in ("int8", "nf4")
        return BYTES_PER_ELEMENT["fp32"] if widened else self.precision.activation_bytes_per_element

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step that are trained on; padding is none."""
        return round(self.seq_len * self.global_batch * self.used_share)

    @property
    def used_share(self) -> float:
        """The share of a sequence that is not padding."""
        return self.lengths.used_share(self.seq_len) if self.lengths and self.packing == "padded" else 1.0

    @property
    def documents(self) -> Pieces | None:
        """The pieces of documents that share sequences, where attention stays within each."""
        return self.lengths.pieces(self.seq_len) if self.lengths and self.packing == "packed" else None
