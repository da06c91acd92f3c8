"""The work of rows, which plans that differ in their stages alone share, computed once for all plans that a test tries one by one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.costmodel.tables import build
from shardwright.costmodel.tables.distinct_rows import DistinctRows, distinct_rows
from shardwright.specs.candidates import Candidates
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.training import TrainingSpec


@contextmanager
def rows_once() -> Iterator[None]:
    """Let cost tables of data sheets take the rows of equal candidates of equal jobs from those before.

    Nodes hold dictionaries and have no hash: they are told apart by where they lie, so each is kept with its rows.
    """
    held: dict[tuple[object, ...], tuple[DistinctRows, OpTimes]] = {}

    def once(
        model: ModelSpec, training: TrainingSpec, candidates: Candidates, times: OpTimes, *, mtp_apart: bool = False
    ) -> DistinctRows:
        columns = b"".join(column.tobytes() for column in vars(candidates).values())
        key = (model, training, columns, id(times.node), id(times.constants), _shared_fabric(times), mtp_apart)
        if key not in held:
            held[key] = distinct_rows(model, training, candidates, times, mtp_apart=mtp_apart), times
        return held[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "distinct_rows", once)
        yield


def _shared_fabric(times: OpTimes) -> object:
    return getattr(times, "oversubscription", times)  # without it, each `times` stands for itself
