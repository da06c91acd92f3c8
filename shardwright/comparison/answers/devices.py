"""Answers about numbers of devices: the fewest for a deadline, and cost against time."""

from collections.abc import Sequence

from shardwright.base import SECONDS_PER_DAY
from shardwright.base import units as readable
from shardwright.planner.questions import Case, Costs, FewestDevices, TokenTime, token_time
from shardwright.reports.questions import Answer, Curve

_JOULES_PER_MWH = 3.6e9


def deadline_answer(
    found: FewestDevices, *, tokens: float, deadline_seconds: float, at_slow_end: bool, most_devices: int
) -> Answer:
    """The fewest devices that meet a deadline, and the time on other numbers of them."""
    times = [token_time(case, tokens) for case in found.cases]
    seconds = [time.seconds_high if at_slow_end else time.seconds for time in times]
    best, cases = found.best, found.cases
    rows = tuple(
        (
            f"{case.cluster.devices:,}",
            case.plan,
            (
                readable.seconds(case.estimate.step_seconds),
                readable.days(time.seconds),
                readable.days(time.seconds_high),
                readable.count(time.device_hours),
                "met" if judged <= deadline_seconds else "missed",
            ),
        )
        for case, time, judged in zip(cases, times, seconds, strict=True)
    )
    return Answer(
        title=f"{readable.amount(tokens)} tokens in {readable.days(deadline_seconds)}: {cases[0].model.name}",
        first="devices",
        columns=("step", "time", "slow end", "device hours", "deadline"),
        rows=rows,
        best=None if best is None else cases.index(best),
        lines=tuple(_deadline_lines(found, tokens, deadline_seconds, at_slow_end, most_devices)),
        curve=Curve(
            title=f"{readable.amount(tokens)} tokens, {cases[0].model.name}",
            x_label="devices",
            y_label="days, slow end of the 80% interval" if at_slow_end else "days",
            points=tuple((float(c.cluster.devices), s / SECONDS_PER_DAY) for c, s in zip(cases, seconds, strict=True)),
            labels=tuple(str(case.plan.mesh) for case in cases),
            joined=tuple(range(len(cases))),
            joined_label="fastest plan of each",
            best=None if best is None else cases.index(best),
            best_label="fewest devices",
            limit=deadline_seconds / SECONDS_PER_DAY,
            limit_label="deadline",
        ),
    )


def _deadline_lines(
    found: FewestDevices, tokens: float, deadline_seconds: float, at_slow_end: bool, most_devices: int
) -> list[str]:
    deadline = readable.days(deadline_seconds)
    per_node = found.cases[0].cluster.node.devices_per_node
    within = f"Numbers of whole nodes of {per_node}, up to {most_devices:,} devices."
    if found.best is None:
        return [f"None that was tried meets {deadline}.", within]
    best, time = found.best, token_time(found.best, tokens)
    lines = [
        f"The fewest devices are {best.cluster.devices:,}: {time.steps:,} steps take {_span(time)}, "
        f"{readable.count(time.device_hours)} device hours.",
    ]
    if found.one_less is not None:
        less = token_time(found.one_less, tokens)
        shown = less.seconds_high if at_slow_end else less.seconds
        lines.append(f"One node less, {found.one_less.cluster.devices:,} devices, takes {readable.days(shown)}.")
    elif best.value > 1:
        lines.append(f"One node less, {best.cluster.devices - per_node:,} devices, has no plan.")
    if at_slow_end:
        lines.append(f"The slow end of the 80% interval meets {deadline}, so a run does with 90% probability.")
    elif time.seconds_high > deadline_seconds:
        lines.append(
            f"At the slow end of the 80% interval it takes {readable.days(time.seconds_high)}, more than {deadline}; "
            "--at-slow-end plans for that."
        )
    return [*lines, f"{within} Failures and checkpoints are not counted."]


def cost_answer(found: Costs, *, tokens: float, price: float | None) -> Answer:
    """Time, device hours, money and energy for a number of tokens, over numbers of devices."""
    cases, times = found.cases, found.times
    powered = all(time.energy_joules is not None for time in times)
    columns = ["step", "time", "device hours", *(["cost"] if price else []), *(["energy"] if powered else [])]
    rows = tuple(
        (_devices(case, cases), case.plan, _cost_cells(case, time)) for case, time in zip(cases, times, strict=True)
    )
    spent = [time.device_hours if time.cost is None else time.cost for time in times]
    cheapest = min(range(len(times)), key=lambda index: times[index].device_hours)
    return Answer(
        title=f"{readable.amount(tokens)} tokens: {cases[0].model.name}",
        first="devices",
        columns=tuple(columns),
        rows=rows,
        best=len(cases) - 1,
        lines=tuple(_cost_lines(found, price, powered, cheapest)),
        curve=Curve(
            title=f"Cost against time: {readable.amount(tokens)} tokens, {cases[0].model.name}",
            x_label="days",
            y_label="cost" if price else "device hours",
            points=tuple((time.seconds / SECONDS_PER_DAY, each) for time, each in zip(times, spent, strict=True)),
            labels=tuple(f"{_devices(case, cases)} devices" for case in cases),
            joined=found.cheapest_for_their_time,
            joined_label="no other is faster and cheaper",
            best=cheapest,
            best_label="cheapest",
            linear=True,
        ),
    )


def _cost_cells(case: Case, time: TokenTime) -> tuple[str, ...]:
    cells = [readable.seconds(case.estimate.step_seconds), readable.days(time.seconds)]
    cells.append(readable.count(time.device_hours))
    if time.cost is not None:
        cells.append(readable.count(time.cost))
    if time.energy_joules is not None:
        cells.append(f"{readable.number(time.energy_joules / _JOULES_PER_MWH)} MWh")
    return tuple(cells)


def _cost_lines(found: Costs, price: float | None, powered: bool, cheapest: int) -> list[str]:
    case, time, cheap = found.cases[-1], found.times[-1], found.cases[cheapest]
    money = f", {readable.count(time.cost)} at {price:g} for a device hour" if time.cost is not None else ""
    lines = [
        f"On {_devices(case, found.cases)} devices {time.steps:,} steps take {_span(time)}: {readable.count(time.device_hours)} device hours{money}."
    ]
    if cheapest != len(found.cases) - 1:
        dearer = time.device_hours / found.times[cheapest].device_hours - 1
        lines.append(
            f"Cheapest are {_devices(cheap, found.cases)} devices: {readable.days(found.times[cheapest].seconds)}; "
            f"{_devices(case, found.cases)} cost {readable.share(dearer)} more."
        )
    beaten = [
        _devices(each, found.cases)
        for index, each in enumerate(found.cases)
        if index not in found.cheapest_for_their_time
    ]
    if beaten:
        lines.append(f"Another number of devices is faster and not dearer than {', '.join(beaten)}.")
    if powered:
        lines.append("Energy is that of the devices at their power limit, without hosts, network and cooling.")
    return [*lines, "Failures and checkpoints are not counted."]


def _span(time: TokenTime) -> str:
    low, high = readable.days(time.seconds_low), readable.days(time.seconds_high)
    return f"{readable.days(time.seconds)} (80% interval {low} to {high})"


def _devices(case: Case, cases: Sequence[Case]) -> str:
    """The devices of a case: their number, and their names where those of `cases` differ: `16 h100-sxm + 16 a100-sxm-80gb`."""
    if len({group.device.name for each in cases for group in each.cluster.groups}) == 1:
        return f"{case.cluster.devices:,}"
    return " + ".join(f"{group.devices:,} {group.device.name}" for group in case.cluster.groups)
