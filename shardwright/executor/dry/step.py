"""One traced step of one rank: the engine that a run builds, in a world of ranks that do not exist."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._mesh_layout import _MeshLayout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.optimizers import WholeMatrices, matrices_of
from shardwright.executor.parallel import Engine, build_engine
from shardwright.specs import Optimizer

from .collectives import Collective
from .saved_bytes import SavedBytes
from .tracing import Tracing

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """What a rank did in one step. `collectives`: calls, and whether they are part of the loss. `exchanged`: calls of replicas that agree
    approximately, of one exchange of the whole model in `inner_steps` steps."""

    collectives: Counter[tuple[Collective, bool]]
    exchanged: Counter[tuple[Collective, bool]]
    inner_steps: int
    flops: int
    activation_bytes: int


def trace_step(plan_file: PlanFile, rank: int) -> Step:
    """Trace gradients and clipping of one step of `rank`, with all microbatches of the plan, and what an optimizer exchanges that
    needs whole matrices. Other updates move nothing.

    Raises:
        SpecError: the engine does not run the plan, or this process has a process group.
    """
    plan, training = plan_file.plan, plan_file.training
    tracing = Tracing()
    # on one stage the loss is over when the backward pass of the layers begins
    saved = SavedBytes(lambda: plan.mesh.pp == 1 and tracing.in_loss)
    with _fake_world(plan.mesh.ranks, rank), tracing.active():
        engine = build_engine(plan_file, device=_CPU, seed=0)
        tokens = torch.zeros((plan.micro_batch * plan.microbatches, training.seq_len), dtype=torch.int64)
        tracing.forget()
        with saved.counting():
            engine.forward_backward(tokens, tokens)
        engine.clip_gradients(1.0)
        _exchange_matrices(engine, training.method)
        activation_bytes = saved.of_activations(engine.model_parts)
        collectives, flops = Counter(tracing.collectives), tracing.flops
        tracing.forget()
        if engine.agreement is not None:
            engine.agreement.exchange_once()
        exchanged = Counter(tracing.collectives)
    return Step(collectives, exchanged, plan.sync.inner_steps or 1, flops, activation_bytes)


def _exchange_matrices(engine: Engine, method: Optimizer) -> None:
    if method.whole_matrix and (matrices := matrices_of(engine.model_parts, method)):
        WholeMatrices(dict.fromkeys(matrices, 0.0), method, betas=(0.9, 0.95), eps=1e-8).exchange()


@contextlib.contextmanager
def _fake_world(ranks: int, rank: int) -> Iterator[None]:
    """Be `rank` of torch's fake process group, whose collectives end at once and move nothing."""
    if dist.is_initialized():
        raise SpecError("this process is a rank of a process group already; make the dry run in a process of its own")
    # what torch remembers of operators on equal meshes has the groups of an earlier world
    _clear_sharding_prop_cache()  # type: ignore[no-untyped-call] # torch's
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        with _groups_of_their_own():
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Give every dimension of a mesh a group with its name, and only the group of this rank.

    torch itself takes the default group for a dimension that spans all ranks, and two axes would then look alike. It also makes
    the groups of other ranks. Here the n-th dimension has the n-th group on every rank, so that what torch caches of a mesh
    (`DTensor`'s plans, by group name) holds for the next traced rank.
    """
    mesh: Any = DeviceMesh
    make = mesh._init_one_process_group

    def own_group(layout: Any, rank_map: Any, name: str, _backend: Any) -> str:
        lines: list[list[int]] = _MeshLayout([layout]).remap_to_tensor(rank_map).tolist()
        ranks = next(line for line in lines if dist.get_rank() in line)
        group: Any = dist.new_group(ranks, backend="fake", group_desc=f"mesh_{name}")
        found: str = group.group_name
        return found

    mesh._init_one_process_group = staticmethod(own_group)
    try:
        yield
    finally:
        mesh._init_one_process_group = staticmethod(make)
