"""The order in which each rank of a named schedule computes: one generator for each schedule.

Those of schedules that repeat one building block stand in building_block.py.
A new schedule needs its name and shape in `specs.schedules` and a generator in `ORDERS` here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from shardwright.specs import ScheduleName, passes_stage, runs_by_chunk

from .action import Action, ActionKind, Overlap, Work
from .building_block import repeated_order


def warm_up_forwards(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, rank: int) -> int:
    """Return the number of forwards that `rank` runs before it alternates one forward with one backward.

    GPipe and breadth-first: all of them. 1F1B and ZB-H1: pp - 1 - rank, the number of ranks below. ZB-2p: twice as many. Interleaved:
    (stages_per_rank - 1) * pp + 2 (pp - 1 - rank); the factor 2 leaves every message one action of slack (Narayanan et
    al. 2021, arXiv 2104.04473, section 2.2, and Megatron-LM's schedule). The number never exceeds that of the forwards.
    """
    forwards = microbatches * stages_per_rank
    if name == "gpipe" or runs_by_chunk(name):
        return forwards
    below = pp - 1 - rank
    return min(forwards, below if name in ("1f1b", "zb-h1") else (stages_per_rank - 1) * pp + 2 * below)


def _gpipe_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """All forwards, then all backwards (Huang et al. 2019, arXiv 1811.06965)."""
    for kind in (ActionKind.FORWARD, ActionKind.BACKWARD):
        for microbatch in range(microbatches):
            yield Action(rank, kind, microbatch)


def _one_forward_one_backward_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    forwards = [Action(rank, ActionKind.FORWARD, microbatch) for microbatch in range(microbatches)]
    backwards = [Action(rank, ActionKind.BACKWARD, microbatch) for microbatch in range(microbatches)]
    return _alternate(forwards, backwards, warm_up_forwards("1f1b", pp, 1, microbatches, rank))


def _skipping_order(
    name: ScheduleName, rank: int, pp: int, stages_per_rank: int, microbatches: int
) -> Iterator[Action]:
    """1F1B with twice its warm-up, without the microbatches that leave this stage out. Orders that can run still can when work is removed
    from them. With a single warm-up stages that hold more layers because fewer pass them wait for each other's microbatches."""
    passes = passes_stage(name, pp, pp, microbatches)[rank]
    forwards, backwards = (
        [Action(rank, kind, microbatch) for microbatch in range(microbatches)]
        for kind in (ActionKind.FORWARD, ActionKind.BACKWARD)
    )
    order = _alternate(forwards, backwards, min(microbatches, 2 * (pp - 1 - rank)))
    return (action for action in order if passes[action.microbatch])


def _interleaved_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """Depth first: pp microbatches pass one chunk, then the same ones pass the
    next. Backwards start at the last chunk."""
    forwards, backwards = [], []
    for first in range(0, microbatches, pp):
        for chunk in range(stages_per_rank):
            for microbatch in range(first, first + pp):
                forwards.append(Action(chunk * pp + rank, ActionKind.FORWARD, microbatch))
                mirrored = (stages_per_rank - 1 - chunk) * pp + rank
                backwards.append(Action(mirrored, ActionKind.BACKWARD, microbatch))
    warm_up = warm_up_forwards("interleaved-1f1b", pp, stages_per_rank, microbatches, rank)
    return _alternate(forwards, backwards, warm_up)


def _breadth_first_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """All microbatches pass a rank's first chunk, then all of them the next; backwards in the reverse order (Lamy-Poirier 2023,
    arXiv 2211.05953, section 4.1, in torch's order).

    So a rank needs the parameters of one chunk at a time, and gathers and reduces them once for all microbatches.
    """
    stages = range(rank, pp * stages_per_rank, pp)
    for stage in stages:
        for microbatch in range(microbatches):
            yield Action(stage, ActionKind.FORWARD, microbatch)
    for stage in reversed(stages):
        for microbatch in reversed(range(microbatches)):
            yield Action(stage, ActionKind.BACKWARD, microbatch)


def _alternate(forwards: list[Action], backwards: list[Action], warm_up: int) -> Iterator[Action]:
    yield from forwards[:warm_up]
    for forward, backward in zip(forwards[warm_up:], backwards, strict=False):
        yield forward
        yield backward
    yield from backwards[len(forwards) - warm_up :]


def _zb_h1_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """ZB-H1 (Qi et al. 2023, arXiv 2401.10241, section 2.3): 1F1B whose weight gradients lag `rank` microbatches
    behind.

    The lower ranks hold fewer microbatches under 1F1B. Here they hold as many as the first, and end with weight
    gradients in the bubble. torch generates this order as interleaved zero bubble with one stage on each rank.
    """
    return _lagging(rank, microbatches, warm_up_forwards("zb-h1", pp, 1, microbatches, rank), lag=rank)


def _zb_2p_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """ZB-2p (Qi et al. 2023, arXiv 2401.10241), in the order of its handcrafted form ZB-H2 (section 2.3).

    A rank computes 2 (pp - 1 - rank) further forwards while it waits for its first gradient. Its weight gradients lag
    2 rank microbatches behind. So each rank holds 2 pp - 1 microbatches. From its first pass on no rank waits, where
    forward, input gradient and weight gradient take equally long and there are 2 pp - 1 microbatches or more.
    """
    return _lagging(rank, microbatches, warm_up_forwards("zb-2p", pp, 1, microbatches, rank), lag=2 * rank)


def _lagging(stage: int, microbatches: int, warm_up: int, lag: int) -> Iterator[Action]:
    """`warm_up` forwards, then a forward, an input gradient, and the weight gradient of `lag` microbatches before."""
    for microbatch in range(warm_up):
        yield Action(stage, ActionKind.FORWARD, microbatch)
    for microbatch in range(microbatches):
        if warm_up + microbatch < microbatches:
            yield Action(stage, ActionKind.FORWARD, warm_up + microbatch)
        yield Action(stage, ActionKind.INPUT_GRADIENT, microbatch)
        if microbatch >= lag:
            yield Action(stage, ActionKind.WEIGHT_GRADIENT, microbatch - lag)
    for microbatch in range(max(0, microbatches - lag), microbatches):
        yield Action(stage, ActionKind.WEIGHT_GRADIENT, microbatch)


class _Passes:
    """Hands out the passes of a rank: microbatches of each stage in order, and postponed weight gradients."""

    def __init__(self) -> None:
        self._next: Counter[tuple[int, ActionKind]] = Counter()
        self._postponed: list[Action] = []

    def forward(self, stage: int) -> Action:
        return self._take(stage, ActionKind.FORWARD)

    def backward(self, stage: int) -> Action:
        return self._take(stage, ActionKind.BACKWARD)

    def input_gradient(self, stage: int) -> Action:
        """A backward that postpones its weight gradient."""
        backward = self._take(stage, ActionKind.BACKWARD)
        self._postponed.append(backward._replace(kind=ActionKind.WEIGHT_GRADIENT))
        return backward._replace(kind=ActionKind.INPUT_GRADIENT)

    def weight_gradients(self, most: int, stage: int | None = None) -> list[Action]:
        """Return the oldest postponed ones, at most `most`; only those of `stage`, where it is given."""
        taken = [action for action in self._postponed if stage in (None, action.stage)][:most]
        self._postponed = [action for action in self._postponed if action not in taken]
        return taken

    def _take(self, stage: int, kind: ActionKind) -> Action:
        microbatch = self._next[stage, kind]
        self._next[stage, kind] += 1
        return Action(stage, kind, microbatch)


def _zb_v_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """ZB-V (Qi et al. 2023, arXiv 2401.10241, section 6), in torch's order.

    It has no bubbles where forward, input gradient and weight gradient take equally long. Its phases need 2 pp - 1
    microbatches or more. With fewer, the missing ones are left out.
    """
    order = _zb_v_phases(rank, pp, max(2 * pp - 1, microbatches))
    return (action for action in order if action.microbatch < microbatches)


def _zb_v_phases(rank: int, pp: int, microbatches: int) -> Iterator[Action]:
    down, up, passes = rank, 2 * pp - 1 - rank, _Passes()

    def whole_backward(stage: int) -> Iterator[Action]:
        yield passes.input_gradient(stage)
        yield from passes.weight_gradients(1, stage)

    for _ in range(2 * (pp - rank) - 1):
        yield passes.forward(down)
    for _ in range(rank):
        yield passes.forward(up)
        yield passes.forward(down)
    for _ in range(pp - rank):
        yield passes.forward(up)
        yield from whole_backward(up)
    for done in range(microbatches - pp):
        if done < microbatches - 2 * pp + 1 + rank:
            yield passes.forward(down)
        yield from whole_backward(down)
        yield passes.forward(up)
        yield from whole_backward(up)
    for _ in range(rank):
        yield passes.input_gradient(down)
        yield passes.input_gradient(up)
    for _ in range(pp - rank):
        yield passes.input_gradient(down)
        yield from passes.weight_gradients(1, down)
    yield from passes.weight_gradients(rank, up)
    yield from passes.weight_gradients(rank, down)


def _dualpipe_v_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Work]:
    """DualPipe-V: DualPipe (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.1), cut in half and folded to a V.

    The order is torch's, which is that of github.com/deepseek-ai/DualPipe.
    """
    down, up, below, passes = rank, 2 * pp - 1 - rank, pp - 1 - rank, _Passes()

    def overlap(forward: int, backward: int) -> Overlap:
        return Overlap(passes.forward(forward), passes.backward(backward))

    for _ in range(2 * below):
        yield passes.forward(down)
    for _ in range(rank + 1):
        yield passes.forward(down)
        yield passes.forward(up)
    for _ in range(below):
        yield passes.input_gradient(up)
        yield from passes.weight_gradients(1)
        yield passes.forward(up)
    for turn in range(microbatches - 2 * pp + rank + 1):
        if turn == 0 and below == 0:  # not overlapped, so that the gradient leaves before anything else
            yield passes.forward(down)
            yield passes.backward(up)
        else:
            yield overlap(down, up)
        yield overlap(up, down)
    for _ in range(below):
        yield passes.backward(up)
        yield overlap(up, down)
    yield from _dualpipe_v_end(rank, pp, passes)


def _dualpipe_v_end(rank: int, pp: int, passes: _Passes) -> Iterator[Action]:
    """Yield the last backwards. Those of the second half postpone their weight gradients, which fill the bubble."""
    down, up, below = rank, 2 * pp - 1 - rank, pp - 1 - rank
    for turn in range(2 * (rank + 1)):
        stage = down if turn % 2 else up
        yield passes.input_gradient(stage) if turn > rank else passes.backward(stage)
    for _ in range(below):
        yield from passes.weight_gradients(1)
        yield passes.input_gradient(down)
    yield from passes.weight_gradients(rank + 1)


ORDERS: dict[ScheduleName, Callable[[int, int, int, int], Iterator[Work]]] = {
    "gpipe": _gpipe_order,
    "1f1b": _one_forward_one_backward_order,
    "interleaved-1f1b": _interleaved_order,
    "breadth-first": _breadth_first_order,
    "zb-h1": _zb_h1_order,
    "zb-2p": _zb_2p_order,
    "zb-v": _zb_v_order,
    "v-half": partial(repeated_order, "v-half"),
    "v-min": partial(repeated_order, "v-min"),
    "dualpipe-v": _dualpipe_v_order,
    "skippipe-25": partial(_skipping_order, "skippipe-25"),
}
