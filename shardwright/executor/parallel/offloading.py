"""What of this rank's stages leaves the device, as the plan says."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from shardwright.executor.model import StageModule
from shardwright.executor.offload import OffloadEngine, Room, Streams, streamed_layers

from .stage_builder import StageBuilder


def offload_engine(
    builder: StageBuilder,
    stages: Mapping[int, StageModule],
    *,
    folder: Path,
    streams: Streams | None,
    late: nn.Parameter | None,
) -> OffloadEngine | None:
    """Return the engine for what leaves the device, within the bytes that the plan's estimate states for this pipeline rank."""
    plan_file = builder.plan_file
    plan = plan_file.plan
    shares = {stage: _activation_shares(stage, builder, len(stages)) for stage in stages.values()}
    if not plan.offload.optimizer_fraction and not any(map(any, shares.values())):
        return None
    estimate, rank = plan_file.estimated(), builder.mesh.get_local_rank("pp")
    several = plan.microbatches > 1 and (plan.zero_stage >= 2 or plan.offload.gradient_fraction > 0)
    engine = OffloadEngine(
        list(stages.values()),
        plan.offload,
        plan_file.training.optimizer,
        room=Room(estimate.host_bytes[rank], estimate.nvme_bytes[rank] if estimate.nvme_bytes else 0.0),
        folder=folder,
        device=builder.device,
        sums=several,
        late=late,
        streams=streams,
    )
    for stage, of_layers in shares.items():
        before = None
        for path, share in zip(stage.layer_paths, of_layers, strict=True):
            if share:
                layer = stage.get_submodule(path)
                engine.activations.take(layer, share, before=before)
                before = layer
    return engine


def _activation_shares(stage: StageModule, builder: StageBuilder, rank_stages: int) -> list[float]:
    """Return the share of each layer's activations that goes to the host: the plan's, or all of the training's number of layers, evenly
    spread over the rank's stages and layers."""
    whole = builder.plan_file.training.activation_offload_layers
    if not whole:
        return [run.activation_offload for run in stage.strategies]
    layers = len(stage.strategies)
    return [float(goes) for goes in streamed_layers(layers, min(1.0, whole / (rank_stages * layers)))]
