"""The page of a run in phases: what each takes, what lies between them, and why they have these plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwright.base import units as readable
from shardwright.costmodel.phases import PhasesFile
from shardwright.reports import render_page, write_page
from shardwright.reports.charts import PARTS, Axis, Bars, Chart, Curve, Lines, Part, chart_scripts
from shardwright.reports.plan import MEASURED_PHASES_COLUMNS, PhaseLine, choice_words, measured_phases_rows
from shardwright.specs import ClusterSpec, Measurement

from .bars import memory_marks, step_bars
from .report import fullest_rank, interval_ends, job_lines

COLUMNS = ("phase", "steps", "sequences", "plan", "step", "80% interval", "MFU", "peak memory", "time", "switch")


@dataclass(frozen=True, kw_only=True)
class PhasesPage:
    """The content of the page.

    Attributes:
        file: the phases as `run` takes them.
        phases: the same with their estimates and switches.
        why: sentences on the whole run.
        measurement: of a run of them.
    """

    file: PhasesFile
    phases: Sequence[PhaseLine]
    why: Sequence[str]
    measurement: Measurement | None = None

    @property
    def cluster(self) -> ClusterSpec:
        return self.file.phases[0].plan_file.cluster


def write_phases_page(path: Path, page: PhasesPage) -> None:
    """Write the page whole or not at all.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_page(path, render_phases_page(page))


def render_phases_page(page: PhasesPage) -> str:
    """The page as text; the same content gives the same text."""
    last, measurement = page.phases[-1], page.measurement
    return render_page(
        "phases.html.j2",
        title=f"{last.model.name} on {page.cluster.name}, in {len(page.phases)} phases",
        measurement=measurement,
        tiles=_tiles(page),
        job_lines=[line for line in job_lines(last.model, page.cluster, last.training) if line[0] != "batch"],
        columns=COLUMNS,
        rows=[_cells(number, phase, page.cluster) for number, phase in enumerate(page.phases, start=1)],
        measured_columns=MEASURED_PHASES_COLUMNS,
        measured_rows=measured_phases_rows(page.file, measurement, warmup_steps=measurement.warmup_steps)
        if measurement
        else [],
        why=page.why,
        scripts=chart_scripts(charts_of(page)),
    )


def charts_of(page: PhasesPage) -> dict[str, Chart]:
    """The charts of the page, by name."""
    names = [f"phase {number}" for number in range(1, len(page.phases) + 1)]
    steps = [(name, phase.estimate.step) for name, phase in zip(names, page.phases, strict=True)]
    charts: dict[str, Chart] = {"run": _run_bars(page.phases), "step": step_bars(steps), "memory": _memory_bars(page)}
    if page.measurement is not None and page.measurement.steps:
        measured = page.measurement.steps
        seconds = tuple((one.step, one.seconds) for one in measured)
        charts["step_seconds"] = Lines(
            x=Axis(name="step"),
            y=Axis(name="seconds", unit="s"),
            curves=(
                Curve(name="measured", colour="measured", points=seconds),
                Curve(name="predicted", colour="chosen", points=_predicted(page.file), stepped=True, dashed=True),
            ),
        )
        loss = Curve(name="loss", colour="measured", points=tuple((one.step, one.loss) for one in measured))
        charts["loss"] = Lines(x=Axis(name="step"), y=Axis(name="loss", from_data=True), curves=(loss,))
    return charts


def _tiles(page: PhasesPage) -> list[tuple[str, str, str]]:
    """The few numbers to see first: what, value, remark."""
    phases = page.phases
    switched = sum(phase.switch.seconds for phase in phases)
    whole = switched + sum(phase.steps * phase.estimate.step_seconds for phase in phases)
    tokens = sum(phase.steps * phase.training.tokens_per_step for phase in phases)
    filled = [fullest_rank(phase.estimate, page.cluster) for phase in phases]
    number = max(range(len(phases)), key=lambda index: filled[index][1])
    rank, share = filled[number]
    return [
        ("Whole run", readable.days(whole), _between(phases, switched)),
        ("Steps", readable.count(sum(phase.steps for phase in phases)), f"{readable.amount(tokens)} tokens"),
        ("Switches", readable.seconds(switched), f"{readable.share(switched / whole)} of the run"),
        (
            "Peak memory",
            readable.size(phases[number].estimate.memory[rank].total),
            f"{readable.share(share)} of what is usable, in phase {number + 1}",
        ),
        ("Cost", readable.number(whole * page.cluster.devices / 3600), "device hours"),
    ]


def _between(phases: Sequence[PhaseLine], switched: float) -> str:
    """The 80% interval of the run where the model errs by as much in every phase."""
    ends = [interval_ends(phase.estimate) for phase in phases]
    if any(end is None for end in ends):
        return ""
    low, high = (
        switched + sum(phase.steps * end[side] for phase, end in zip(phases, ends, strict=True) if end)
        for side in (0, 1)
    )
    return f"80%: {readable.days(low)} to {readable.days(high)}"


def _cells(number: int, phase: PhaseLine, cluster: ClusterSpec) -> tuple[str, ...]:
    estimate, interval = phase.estimate, interval_ends(phase.estimate)
    rank, share = fullest_rank(estimate, cluster)
    return (
        str(number),
        readable.count(phase.steps),
        f"{phase.training.global_batch:,} of {phase.training.seq_len:,}",
        choice_words(phase.plan),
        readable.seconds(estimate.step_seconds),
        " to ".join(map(readable.seconds, interval)) if interval else "",
        readable.share(estimate.mfu),
        f"{readable.size(estimate.memory[rank].total)} ({readable.share(share)})",
        readable.seconds(phase.steps * estimate.step_seconds),
        readable.seconds(phase.switch.seconds),
    )


def _run_bars(phases: Sequence[PhaseLine]) -> Bars:
    """The seconds of each phase, and of the switch before it."""
    rows = tuple(f"phase {number}" for number in range(1, len(phases) + 1))
    parts = (
        Part("switch", "host_copy", tuple(phase.switch.seconds for phase in phases)),
        Part("steps", "compute", tuple(phase.steps * phase.estimate.step_seconds for phase in phases)),
    )
    return Bars(axis="seconds of the run", unit="s", rows=rows, parts=tuple(one for one in parts if any(one.values)))


def _memory_bars(page: PhasesPage) -> Bars:
    """What fills the fullest device of each phase at its peak."""
    ranks = [fullest_rank(phase.estimate, page.cluster)[0] for phase in page.phases]
    memory = [phase.estimate.memory[rank] for phase, rank in zip(page.phases, ranks, strict=True)]
    parts = (Part(part.replace("_", " "), part, tuple(getattr(one, part) for one in memory)) for part in PARTS)
    return Bars(
        axis="the fullest device at its peak",
        unit="B",
        rows=tuple(f"phase {number}" for number in range(1, len(memory) + 1)),
        parts=tuple(part for part in parts if any(part.values)),
        marks=memory_marks(page.phases[0].estimate, page.cluster, ranks[:1]),
    )


def _predicted(file: PhasesFile) -> tuple[tuple[float, float], ...]:
    """The predicted seconds of each step where they begin and where they end."""
    return tuple(
        (step, span.plan_file.estimated().step_seconds)
        for span in file.spans
        for step in (span.steps_before + 1, span.last_step)
    )
