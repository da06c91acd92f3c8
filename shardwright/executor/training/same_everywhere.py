"""Whether all ranks begin a run with the same plan and the same data."""

import torch.distributed as dist

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.data import PlanBatches

from .manifest import plan_digest


def check_same(batches: PlanBatches, plan_file: PlanFile) -> None:
    """Check that all ranks have one plan and the same data.

    Raises:
        SpecError: on every rank, where one has another.
    """
    digests = [("", "")] * dist.get_world_size()
    dist.all_gather_object(digests, (plan_digest(plan_file), batches.digest))
    for number, what in enumerate(
        (
            "another plan than rank 0; give every node the same file",
            "other data than rank 0; give every node the same files (the default, Python's own sources, differs between Python versions)",
        )
    ):
        different = [rank for rank, digest in enumerate(digests) if digest[number] != digests[0][number]]
        if different:
            raise SpecError(f"rank {different[0]} finds {what}")
