"""What a user may overlook in a job, and what was taken for granted about its cluster."""

from shardwright.base import GIB, units
from shardwright.costmodel import estimate_plan, model_flops_per_sequence, nodes_of_ranks
from shardwright.planner.space import TRIED_LOSS_CHUNKS
from shardwright.specs import ClusterSpec, Estimate, MemoryBytes, Plan, TrainingSpec
from shardwright.specs.model import MixtureOfExperts, ModelSpec

_MUCH = 0.25
_MOST_CAUSAL = 0.8
_XLA = ("xla", "paxml")
_GIVEN = "given by the user"


def overlooked(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, estimate: Estimate
) -> list[str]:
    """Name software that a TPU does not run, a sequence beyond the model's positions, documents longer than a sequence, and logits that take much of a
    memory that is half full or more."""
    found = _other_software(cluster, training)
    longest = None if model.positions else model.config.get("max_position_embeddings")
    if isinstance(longest, int) and training.seq_len > longest:
        found.append(
            f"The sequence of {training.seq_len:,} tokens is longer than the {longest:,} positions of {model.name}; "
            "its rotary embedding needs scaling to reach that far."
        )
    found += _cut_documents(training)
    causal, full = (model_flops_per_sequence(model, training, causal=half) for half in (True, False))
    if causal < _MOST_CAUSAL * full:
        found.append(
            f"MFU counts attention without its causal mask, as is usual; with the half that the mask leaves it is "
            f"{estimate.mfu * causal / full:.1%}."
        )
    nodes = nodes_of_ranks(estimate, cluster)
    fullest = _fullest(estimate)
    full = fullest.total > nodes[estimate.memory.index(fullest)].device.memory_bytes / 2
    if full and fullest.logits > _MUCH * fullest.total and training.loss_chunks == 1:
        found.append(_logits(model, cluster, training, plan, fullest))
    return found


def _other_software(cluster: ClusterSpec, training: TrainingSpec) -> list[str]:
    tpus = [group.device.name for group in cluster.groups if group.intra_node.kind == "ici"]
    if not tpus or training.stack in _XLA:
        return []
    return [f"{tpus[0]} runs what XLA compiles, not stack '{training.stack}'; plan with --stack xla."]


def _cut_documents(training: TrainingSpec) -> list[str]:
    longer = training.lengths.longer_than(training.seq_len) if training.lengths else 0.0
    if not longer:
        return []
    becomes = "packing cuts them into pieces" if training.packing == "packed" else "padding cuts off what is beyond"
    return [f"{longer:.1%} of the documents are longer than the {training.seq_len:,} tokens of a sequence; {becomes}."]


def _logits(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, fullest: MemoryBytes) -> str:
    """What the same plan needs with the fewest pieces of the loss after which logits no longer take much."""
    for chunks in TRIED_LOSS_CHUNKS:
        in_pieces = training.model_copy(update={"loss_chunks": chunks})
        left = _fullest(estimate_plan(model, cluster, in_pieces, plan))
        if left.logits <= _MUCH * left.total:
            break
    runs = training.software.runs.loss_chunks
    choose = "--loss-chunks auto plans for it" if runs else f"stack '{training.stack}' does not run that"
    return (
        f"The logits take {fullest.logits / GIB:.1f} of {fullest.total / GIB:.1f} GiB; with --loss-chunks {chunks} this plan needs "
        f"{left.total / GIB:.1f} GiB ({choose})."
    )


def _fullest(estimate: Estimate) -> MemoryBytes:
    return max(estimate.memory, key=lambda part: part.total)


def assumed(cluster: ClusterSpec, model: ModelSpec | None = None) -> str:
    """Say what nobody gave: links, NICs and host, which are the catalog's, and how many experts of a token compute. Empty where all
    was given."""
    said = [_assumed_of(cluster)]
    for ffn in {block.ffn for block in model.layer_classes} if model else ():
        if isinstance(ffn, MixtureOfExperts) and ffn.zero_experts:
            said.append(
                f"each choice of a router gets as many tokens: of {ffn.top_k} experts of a token {ffn.computed_top_k:.3g} compute"
            )
    return ", ".join(words for words in said if words)


def _assumed_of(cluster: ClusterSpec) -> str:
    if cluster.is_mixed:
        alone = {group.device.name: _assumed_of(cluster.alone(index)) for index, group in enumerate(cluster.groups)}
        return "; ".join(f"{name}: {words}" for name, words in alone.items() if words)
    group = cluster.groups[0]
    parts = []
    if group.devices_per_node > 1 and group.intra_node.source != _GIVEN:
        parts.append(
            f"{group.devices_per_node} devices a node, {group.intra_node.kind} {_rate(group.intra_node.bytes_per_s)}"
        )
    if group.nic is not None and group.nodes > 1 and group.nic.source != _GIVEN:
        parts.append(f"{group.nics_per_node} NICs of {_rate(group.nic.bytes_per_s)}")
    if group.device.has_own_memory and group.host.source != _GIVEN:
        memory = units.size(group.host.memory_bytes)
        parts.append(f"{group.host.cores} cores and {memory} on each host of {group.devices_per_host}")
    return ", ".join(parts)


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:,.0f} GB/s"
