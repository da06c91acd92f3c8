"""Whether a schedule can run: every action once, one rank a stage, backward after forward, and no deadlock."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from .errors import SpecError
from .schedule import Action, ActionKind, Schedule


@lru_cache(maxsize=64)
def validate_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that would compute something wrong or wait for ever.

    Raises:
        SpecError: the first line says what is wrong; the lines below show the grid around it and point into it.
    """
    _check_placement(schedule)
    _check_complete(schedule)
    _check_progress(schedule)


def _placed(schedule: Schedule) -> Iterator[tuple[int, int, Action]]:
    for rank, order in enumerate(schedule.orders):
        for step, action in enumerate(order):
            yield rank, step, action


def _error(schedule: Schedule, rank: int, step: int, problem: str) -> SpecError:
    grid = schedule.grid(marked=(rank, step))
    return SpecError(f"schedule, rank {rank}, step {step}: {problem}\n{grid}")


def _check_placement(schedule: Schedule) -> None:
    seen: set[Action] = set()
    for rank, step, action in _placed(schedule):
        home = schedule.rank_of_stage[action.stage]
        if home != rank:
            raise _error(schedule, rank, step, f"{action} is of stage {action.stage}, which rank {home} holds")
        if action in seen:
            raise _error(schedule, rank, step, f"{action} is there a second time; each action runs once")
        if action.kind is ActionKind.BACKWARD and action._replace(kind=ActionKind.FORWARD) not in seen:
            raise _error(schedule, rank, step, f"{action} comes before {action._replace(kind=ActionKind.FORWARD)}")
        seen.add(action)


def _check_complete(schedule: Schedule) -> None:
    if not schedule.stages:
        raise SpecError("schedule holds no action; give each rank at least one stage's forward and backward")
    present = set(schedule)
    for stage, kind, microbatch in product(range(schedule.stages), ActionKind, range(schedule.microbatches)):
        action = Action(stage, kind, microbatch)
        if action not in present:
            where = f"on rank {schedule.rank_of_stage[stage]}" if stage in schedule.rank_of_stage else "on any rank"
            raise SpecError(
                f"schedule of {schedule.stages} stages and {schedule.microbatches} microbatches lacks {action} {where}\n{schedule.grid()}"
            )


def _check_progress(schedule: Schedule) -> None:
    """Let every rank run as far as it can until all are done; a pass in which none moves is a deadlock."""
    done: set[Action | None] = {None}  # None: the source of what waits for no message
    steps = [0] * schedule.pp
    waiting = set(range(schedule.pp))
    while waiting:
        moved = set()
        for rank in sorted(waiting):
            order = schedule.orders[rank]
            while steps[rank] < len(order) and order[steps[rank]].source(schedule.stages) in done:
                done.add(order[steps[rank]])
                steps[rank] += 1
                moved.add(rank)
        waiting = {rank for rank in waiting if steps[rank] < len(schedule.orders[rank])}
        if waiting and not moved:
            rank = min(waiting)
            action = schedule.orders[rank][steps[rank]]
            source = action.source(schedule.stages)
            raise _error(schedule, rank, steps[rank], f"deadlock: {action} waits for {source}, which never runs")
