"""The schedules by name: which shapes each one accepts, and on which rank it puts each stage."""

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError, nearest

ScheduleName = Literal[
    "gpipe",
    "1f1b",
    "interleaved-1f1b",
    "breadth-first",
    "zb-h1",
    "zb-2p",
    "zb-v",
    "v-half",
    "v-min",
    "dualpipe-v",
    "skippipe-25",
]
Placement = Literal["loop", "v"]

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class _Shape:
    """The shapes that a schedule accepts.

    placement: "loop" puts stage i on rank i % pp; "v" goes down the ranks and back up, so that rank r of pp holds
        stages r and 2 pp - 1 - r.
    stages_per_rank: the number of stages on a rank; None for any number from 2 on.
    least_pp: the fewest ranks.
    splits: some backwards are split into input and weight gradient.
    skipped_of: a microbatch leaves out one of so many stages, which changes the gradient; None where it passes all.
    """

    placement: Placement = "loop"
    stages_per_rank: int | None = 1
    least_pp: int = 1
    splits: bool = False
    skipped_of: int | None = None


_SHAPES: dict[ScheduleName, _Shape] = {
    "gpipe": _Shape(),
    "1f1b": _Shape(),
    "interleaved-1f1b": _Shape(stages_per_rank=None, least_pp=2),
    "breadth-first": _Shape(stages_per_rank=None, least_pp=2),
    "zb-h1": _Shape(splits=True),
    "zb-2p": _Shape(splits=True),
    "zb-v": _Shape(placement="v", stages_per_rank=2, least_pp=2, splits=True),
    "v-half": _Shape(placement="v", stages_per_rank=2, least_pp=2, splits=True),
    "v-min": _Shape(placement="v", stages_per_rank=2, least_pp=2, splits=True),
    "dualpipe-v": _Shape(placement="v", stages_per_rank=2, least_pp=2, splits=True),
    "skippipe-25": _Shape(least_pp=4, skipped_of=4),
}
EXACT_SCHEDULES: tuple[ScheduleName, ...] = tuple(name for name, shape in _SHAPES.items() if shape.skipped_of is None)
"""Those in which every microbatch passes every stage."""


def has_shape(name: ScheduleName, pp: int, stages: int, microbatches: int) -> bool:
    """Whether such a schedule exists for these numbers (see `check_shape`)."""
    try:
        check_shape(name, pp, stages, microbatches)
    except SpecError:
        return False
    return True


def check_shape(name: ScheduleName, pp: int, stages: int, microbatches: int) -> None:
    """Refuse shapes that the schedule does not accept; `stages` counts those of all ranks.

    Raises:
        SpecError: one line with what was given and what is allowed.
    """
    if name not in _SHAPES:
        allowed = get_args(ScheduleName)
        raise SpecError(f"schedule '{name}' is not known; allowed: {', '.join(allowed)}.{nearest(name, allowed)}")
    if min(pp, stages, microbatches) < 1:
        raise SpecError(
            f"a schedule needs pp, stages and microbatches of 1 or more, not {pp}, {stages} and {microbatches}"
        )
    _check_stages(name, pp, stages)
    _check_paths(name, pp, microbatches)
    if name == "interleaved-1f1b" and microbatches % pp:
        near = max(1, round(microbatches / pp)) * pp
        raise SpecError(f"{name} needs microbatches divisible by pp: {microbatches} by {pp}; the nearest is {near}")
    if name == "dualpipe-v" and microbatches < stages:
        raise SpecError(
            f"{name} needs as many microbatches as stages: {stages} or more with pp {pp}, not {microbatches}"
        )


def _check_stages(name: ScheduleName, pp: int, stages: int) -> None:
    shape = _SHAPES[name]
    if shape.stages_per_rank is None:
        right, wanted = stages % pp == 0 and stages >= 2 * pp, "2, 3, ... stages on each rank"
    else:
        right = stages == shape.stages_per_rank * pp
        wanted = (
            "one stage on each rank" if shape.stages_per_rank == 1 else f"{shape.stages_per_rank} stages on each rank"
        )
    if pp < shape.least_pp:
        wanted = f"pp of {shape.least_pp} or more and {wanted}"
        right = False
    if not right:
        several = "; interleaved-1f1b runs several" if shape.stages_per_rank == 1 and stages > pp else ""
        raise SpecError(f"{name} needs {wanted}, not {stages} in all for pp {pp}{several}")


def _check_paths(name: ScheduleName, pp: int, microbatches: int) -> None:
    of = _SHAPES[name].skipped_of
    if of is None:
        return
    if pp % of:
        near = max(1, round(pp / of)) * of
        raise SpecError(
            f"{name} leaves out one of {of} stages and needs pp divisible by {of}, not {pp}; the nearest is {near}"
        )
    if microbatches < pp - 2:
        raise SpecError(
            f"{name} lets microbatches leave out the {pp - 2} stages between the first and the last in turn, and needs as many or more, not "
            f"{microbatches}"
        )


def skips_stages(name: ScheduleName) -> bool:
    """Whether microbatches leave out stages, so that gradients are others than those of the whole model."""
    return _SHAPES[name].skipped_of is not None


def passes_stage(name: ScheduleName, pp: int, stages: int, microbatches: int) -> NDArray[np.bool_]:
    """[stages, microbatches]: which microbatch passes which stage.

    Of SkipPipe (Blagoev et al. 2025, arXiv 2502.19913) the constraints are ours to meet: the first and the last stage are never left
    out, the others equally often, and paths do not collide: where passes and messages take equally long, and a microbatch enters
    every turn, no stage is reached by two at once. Microbatch m leaves out d neighbours of the n = P - 2 stages between, in a ring: those with
    (stage - 1 + m) mod n < d, one stage earlier than the microbatch before. Stages are not swapped.
    """
    passes = np.ones((stages, microbatches), dtype=bool)
    if (of := _SHAPES[name].skipped_of) is not None:
        between, left_out = np.arange(stages - 2), stages // of
        passes[1:-1] = (between[:, None] + np.arange(microbatches)) % (stages - 2) >= left_out
    return passes


def visits(name: ScheduleName, pp: int, stages: int, microbatches: int) -> NDArray[np.int64]:
    """[stages]: microbatches of a step that pass each stage."""
    if not skips_stages(name):
        return np.full(stages, microbatches)
    return np.asarray(passes_stage(name, pp, stages, microbatches).sum(axis=1))


def splits_backward(name: ScheduleName) -> bool:
    """Whether some backwards are split, so that a microbatch's weight gradient may come later than its input gradient."""
    return _SHAPES[name].splits


def runs_by_chunk(name: ScheduleName) -> bool:
    """Whether a rank runs all microbatches of one of its stages before those of the next, in each direction."""
    return name == "breadth-first"


def by_rank(name: ScheduleName, pp: int, per_stage: NDArray[_Number]) -> NDArray[_Number]:
    """[..., stages] as [..., stages per rank, pp]: column r is what rank r holds, in the order of the model."""
    by_chunk = per_stage.reshape(*per_stage.shape[:-1], -1, pp)
    return _turned(by_chunk) if _SHAPES[name].placement == "v" else by_chunk


def by_stage(name: ScheduleName, per_rank: NDArray[_Number]) -> NDArray[_Number]:
    """[..., stages per rank, pp] as [..., stages]: undoes `by_rank`."""
    if _SHAPES[name].placement == "v":
        per_rank = _turned(per_rank)
    return per_rank.reshape(*per_rank.shape[:-2], -1)


def _turned(by_chunk: NDArray[_Number]) -> NDArray[_Number]:
    """Every second chunk runs up the ranks."""
    turned = by_chunk.copy()
    turned[..., 1::2, :] = by_chunk[..., 1::2, ::-1]
    return turned


def stage_ranks(name: ScheduleName, pp: int, stages: int) -> list[int]:
    """The pipeline rank of each stage."""
    ranks = np.broadcast_to(np.arange(pp), (stages // pp, pp))
    return [int(rank) for rank in by_stage(name, ranks)]


def even_stages(layers: int, stages: int) -> list[int]:
    """Layers of each stage, as evenly as possible; the ends, which also hold embedding and head, get the fewer."""
    fewer, extra = divmod(layers, stages)
    middle_first = sorted(range(stages), key=lambda stage: abs(stage - (stages - 1) / 2))
    more = set(middle_first[:extra])
    return [fewer + (stage in more) for stage in range(stages)]
