"""Checks whether a schedule can run: every pass once, one rank a stage, gradients after forwards, and no deadlock."""

from functools import lru_cache
from itertools import product

from shardwright.base import SpecError

from .action import Action, ActionKind
from .schedule import Schedule

# Actions that must come first on the same stage, by kind.
_AFTER = {
    ActionKind.BACKWARD: ActionKind.FORWARD,
    ActionKind.INPUT_GRADIENT: ActionKind.FORWARD,
    ActionKind.WEIGHT_GRADIENT: ActionKind.INPUT_GRADIENT,
}
# Actions that give the same gradient of the input.
_EITHER = {
    ActionKind.BACKWARD: ActionKind.INPUT_GRADIENT,
    ActionKind.INPUT_GRADIENT: ActionKind.BACKWARD,
}


@lru_cache(maxsize=64)
def validate_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that would compute a wrong result or wait for ever.

    Raises:
        SpecError: the first line names the mistake; the lines below show the grid around it and point into it.
    """
    _check_placement(schedule)
    _check_complete(schedule)
    _check_progress(schedule)


def _error(schedule: Schedule, rank: int, step: int, problem: str) -> SpecError:
    grid = schedule.grid(marked=(rank, step))
    return SpecError(f"schedule, rank {rank}, step {step}: {problem}\n{grid}")


def _check_placement(schedule: Schedule) -> None:
    seen: set[Action] = set()
    for rank, order in enumerate(schedule.orders):
        for step, work in enumerate(order):
            for action in work.passes:
                problem = _problem(schedule, rank, action, seen)
                if problem:
                    raise _error(schedule, rank, step, problem)
            seen.update(work.passes)


def _problem(schedule: Schedule, rank: int, action: Action, seen: set[Action]) -> str | None:
    """Return what is wrong with `action` on `rank` after the actions in `seen`, or None."""
    home = schedule.rank_of_stage[action.stage]
    if home != rank:
        return f"{action} is of stage {action.stage}, which rank {home} holds"
    if action in seen:
        return f"{action} is there a second time; each action runs once"
    stage, kind, microbatch = action
    if kind in _AFTER and (before := Action(stage, _AFTER[kind], microbatch)) not in seen:
        return f"{action} comes before {before}"
    if kind in _EITHER and (other := Action(stage, _EITHER[kind], microbatch)) in seen:
        return f"{action} and {other} are both there; give a backward whole or split"
    return None


def _check_complete(schedule: Schedule) -> None:
    if not schedule.stages:
        raise SpecError("schedule holds no action; give each rank at least one stage's forward and backward")
    for stage, microbatch in product(range(schedule.stages), range(schedule.microbatches)):
        between = 0 < stage < schedule.stages - 1 and stage in schedule.rank_of_stage
        if between and not _passes(schedule, stage, microbatch):
            continue  # a microbatch may leave out a stage that others pass
        second = ActionKind.BACKWARD
        if Action(stage, ActionKind.INPUT_GRADIENT, microbatch) in schedule.actions:
            second = ActionKind.WEIGHT_GRADIENT
        for kind in (ActionKind.FORWARD, second):
            action = Action(stage, kind, microbatch)
            if action not in schedule.actions:
                where = f"on rank {schedule.rank_of_stage[stage]}" if stage in schedule.rank_of_stage else "on any rank"
                raise SpecError(
                    f"schedule of {schedule.stages} stages and {schedule.microbatches} microbatches lacks {action} {where}\n{schedule.grid()}"
                )


def _passes(schedule: Schedule, stage: int, microbatch: int) -> bool:
    return any(Action(stage, kind, microbatch) in schedule.actions for kind in ActionKind)


def _check_progress(schedule: Schedule) -> None:
    """Let every rank run as far as it can until all are done. A round in which no rank moves is a deadlock."""
    done: set[Action | None] = {None}  # None: the source of actions that wait for no message
    steps = [0] * schedule.pp
    waiting = set(range(schedule.pp))
    while waiting:
        moved = set()
        for rank in sorted(waiting):
            order = schedule.orders[rank]
            while steps[rank] < len(order) and all(schedule.source(a) in done for a in order[steps[rank]].passes):
                done.update(order[steps[rank]].passes)
                steps[rank] += 1
                moved.add(rank)
        waiting = {rank for rank in waiting if steps[rank] < len(schedule.orders[rank])}
        if waiting and not moved:
            raise _deadlock(schedule, steps, min(waiting), done)


def _deadlock(schedule: Schedule, steps: list[int], rank: int, done: set[Action | None]) -> SpecError:
    passes = schedule.orders[rank][steps[rank]].passes
    action, source = next((a, source) for a in passes if (source := schedule.source(a)) not in done)
    return _error(schedule, rank, steps[rank], f"deadlock: {action} waits for {source}, which never runs")
