"""The meshes of a plan over the ranks that run: of the dense part, of the experts, and groups of some of them."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from shardwright.executor.model import MeshRanks
from shardwright.specs import Plan

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "tp")
"""Axes of the engine's mesh. Ranks of cp are part of dp_shard, or under ZeRO-0 of dp_replicate: their gradients are summed too."""


def dense_mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    """Return the mesh of `MESH_AXES`, of everything but experts that ep spreads."""
    degrees = plan.mesh
    replicas = degrees.dp_replicate * (1 if plan.zero_stage else degrees.cp)
    shape = (degrees.pp, replicas, degrees.data_ranks // replicas, degrees.tp)
    return _laid_out(plan, device, shape, MESH_AXES)


def sharing_ranks(plan: Plan, device: torch.device, axes: tuple[str, ...] = ("cp", "tp")) -> list[MeshRanks]:
    """Return the groups of ranks that hold parts of one microbatch, those of cp, and of its weights, those of tp."""
    degrees = plan.mesh
    mesh = _laid_out(plan, device, (degrees.pp, degrees.dp, degrees.cp, degrees.tp), ("pp", "dp", "cp", "tp"))
    return [MeshRanks(mesh[axis]) for axis in axes if mesh[axis].size() > 1]


def expert_mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    """Return the mesh of the layers' experts, over the same ranks: dp_shard is what holds the same experts."""
    degrees = plan.mesh
    replicas = degrees.dp_replicate if plan.zero_stage else degrees.same_experts
    shape = (degrees.pp, replicas, degrees.same_experts // replicas, degrees.ep, degrees.expert_tp)
    return _laid_out(plan, device, shape, (*MESH_AXES[:-1], "ep", "etp"))


def replica_group(mesh: DeviceMesh) -> dist.ProcessGroup:
    """Return a process group of the ranks with this rank's part in every replica, which nothing else uses: its exchanges may run beside
    the steps. That of the mesh is the default group where the axis spans all ranks."""
    lines = mesh.mesh.movedim(MESH_AXES.index("dp_replicate"), -1).flatten(0, -2)
    own: list[int] = next(line for line in lines.tolist() if dist.get_rank() in line)
    group: dist.ProcessGroup = dist.new_group(own, use_local_synchronization=True, group_desc="mesh_dp_replicate")
    return group


def _laid_out(plan: Plan, device: torch.device, shape: tuple[int, ...], axes: tuple[str, ...]) -> DeviceMesh:
    """Return a mesh whose ranks lie as the plan's order says: neighbours along its axes are neighbours in `shape`."""
    ranks = torch.from_numpy(plan.mesh.numbered().reshape(shape))
    return DeviceMesh(device.type, ranks, mesh_dim_names=axes)
