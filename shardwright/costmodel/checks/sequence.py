"""What cuts a sequence: its length against the model, context parallelism, and layers in pieces of it."""

import math

from shardwright.base import SpecError, divisors, listed
from shardwright.costmodel.layers.exchanges import context_of
from shardwright.specs import OWN_STACK, ContextParallel, TrainingSpec
from shardwright.specs.model import FeedForward, LinearAttention, Mamba2, ModelSpec, MultiHeadAttention


def check_sequence(model: ModelSpec, training: TrainingSpec) -> None:
    """Check the sequence length against the learned positions of the model.

    Raises:
        SpecError: the sequence is longer than the positions.
    """
    if model.positions and training.seq_len > model.positions:
        raise SpecError(
            f"sequence length {training.seq_len} is more than the {model.positions} learned positions of {model.name}"
        )


def check_sequence_chunks(model: ModelSpec, training: TrainingSpec, *, cp: int, sequence_parallel: bool) -> None:
    """Check that layers can run in pieces of the sequence, one after the other on a rank that has all of it.

    Raises:
        SpecError: the stack, the model, cp, sequence parallelism or another choice of the training does not go with it.
    """
    if training.sequence_chunks == 1:
        return
    dense = all(
        isinstance(block.attention, MultiHeadAttention) and isinstance(block.ffn, FeedForward) and not block.parallel
        for block in model.layer_classes
    )
    refused = (
        (not training.software.runs.sequence_chunks, f"stack '{training.stack}'", f"plan for stack '{OWN_STACK}'"),
        (
            not dense,
            f"a layer of {model.name}, which is not attention and then a dense feed-forward,",
            "leave out --sequence-chunks",
        ),
        (training.seq_len < training.sequence_chunks, f"{training.seq_len} tokens", f"give at most {training.seq_len}"),
        (cp > 1, f"cp {cp}, which cuts the sequence too", "plan with cp 1"),
        (sequence_parallel, "sequence_parallel", "plan with --no-sequence-parallel"),
        (training.attention == "unfused", "unfused attention", "plan with --attention flash"),
        (training.lengths is not None, "documents of several lengths", "leave out --lengths"),
        (training.mlp_tiles > 1, f"mlp_tiles {training.mlp_tiles}, whose work the pieces do,", "leave out --mlp-tiles"),
        (bool(training.recompute_modules), "recompute by modules", "leave out --recompute-modules"),
        (training.activation_offload_layers > 0, "activation_offload_layers", "leave it out"),
    )
    for stands, what, instead in refused:
        if stands:
            raise SpecError(
                f"sequence_chunks {training.sequence_chunks} does not go with {what.rstrip(',')}; {instead}"
            )


def check_context_parallel(
    cp: int,
    tp: int,
    kind: ContextParallel,
    model: ModelSpec,
    training: TrainingSpec,
    *,
    sequence_parallel: bool,
    ulysses_degree: int | None = None,
) -> None:
    """Check that cp divides the sequence and, under Ulysses, the heads that tp leaves on a rank. With a ring, only the
    `ulysses_degree` ranks that trade heads have to divide them.

    The zig-zag distribution cuts a sequence into 2 cp chunks. Each chunk is split over tp where the sequence is. Under Ulysses
    KV heads are repeated where cp is a multiple of them. Blocks of a ring know nothing of windows (Transformer Engine refuses these, too:
    pytorch/attention/dot_product_attention/context_parallel.py, `attn_forward_func_with_cp`).

    Raises:
        SpecError: cp does not divide, with the numbers and the degrees that would; a ring, and attention in windows; a kind of
            attention with which the stack runs no cp.
    """
    if cp == 1:
        return
    undivided = training.software.runs.undivided_attention
    if "unfused" in undivided and model.lacks_fused_attention:
        raise SpecError(f"cp {cp} needs fused attention in stack {training.stack}, which {model.name} lacks; set cp 1")
    if "unfused" in undivided and training.attention == "unfused":
        raise SpecError(f"cp {cp} needs fused attention in stack {training.stack}; set cp 1, or --attention flash")
    if "alibi" in undivided and model.alibi:
        raise SpecError(
            f"cp {cp} does not divide the bias by distance of {model.name} in stack {training.stack}; set cp 1"
        )
    _check_linear_context(cp, tp, model, training)
    windows = [getattr(block.attention, "window", None) for block in model.layer_classes]
    window = min((size for size in windows if size and size < training.seq_len), default=None)
    if window and kind in ("ring", "ulysses-ring"):
        raise SpecError(
            f"attention of {model.name} in windows of {window} tokens does not run over a {kind}; set context_parallel all-gather or ulysses"
        )
    ulysses = kind == "ulysses"
    chunks = (1 if ulysses else 2) * (tp if sequence_parallel else 1)
    if training.seq_len % (chunks * cp):
        near = max(chunks * cp, round(training.seq_len / (chunks * cp)) * chunks * cp)
        raise SpecError(
            f"cp {cp} ({kind}) cuts a sequence into {chunks * cp} parts and {training.seq_len} tokens don't "
            f"divide by that; the nearest length that does is {near}"
        )
    if kind in ("ulysses", "ulysses-ring"):
        trading, named = (cp, "cp") if ulysses else (ulysses_degree or 1, "ulysses_degree")
        heads, kv_heads = _heads_left(tp, model)
        allowed = ulysses_degrees(tp, model)
        if trading not in allowed:
            raise SpecError(
                f"{named} {trading} ({kind}) deals heads to ranks and tp {tp} leaves {heads} heads and {kv_heads} KV heads of {model.name} "
                f"on one; allowed: {listed(allowed)}; ring and all-gather have no such limit"
            )


def _check_linear_context(cp: int, tp: int, model: ModelSpec, training: TrainingSpec) -> None:
    """Check that linear attention goes with cp. By heads the ranks of tp and cp share them; Mamba-2 repeats its groups where ranks are more."""
    for attention in (block.attention for block in model.layer_classes):
        if not isinstance(attention, LinearAttention):
            continue
        exchanged = context_of(attention, training)
        if exchanged is None:
            raise SpecError(
                f"cp {cp} does not divide the linear attention of {model.name} in stack {training.stack}; set cp 1"
            )
        repeats = isinstance(attention, Mamba2)
        what, count = ("heads", attention.heads) if repeats else ("key heads", attention.key_heads)
        if exchanged == "heads" and count % (tp * cp):
            raise SpecError(
                f"tp {tp} and cp {cp} together do not divide the {count} {what} of the linear attention of {model.name} in "
                f"stack {training.stack}; set a smaller cp"
            )


def ulysses_degrees(tp: int, model: ModelSpec) -> list[int]:
    """Return how many ranks may trade the heads that `tp` leaves on one; KV heads are dealt out, or repeated."""
    heads, kv_heads = _heads_left(tp, model)
    return [degree for degree in divisors(heads) if kv_heads % degree == 0 or degree % kv_heads == 0]


def _heads_left(tp: int, model: ModelSpec) -> tuple[int, int]:
    kinds = [block.attention for block in model.layer_classes if block.has_attention]
    own = [kind for kind in kinds if not isinstance(kind, LinearAttention)]  # which has its own exchange
    heads, kv_heads = (
        math.gcd(*(getattr(kind, name) // tp for kind in own or kinds)) for name in ("heads", "kv_heads")
    )
    return heads, kv_heads
