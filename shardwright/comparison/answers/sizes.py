"""Answers about sizes: the longest sequence, the largest batch and model, the best shape."""

from shardwright.base import units as readable
from shardwright.planner.questions import Case, Growth, Largest, Shapes, work_per_s
from shardwright.reports.questions import Answer, Curve
from shardwright.specs.model import ModelSpec

_NEAR = 0.01
_COLUMNS = ("step", "tokens/s", "MFU", "memory")


def sequence_answer(found: Largest, asked_step: int) -> Answer:
    """The longest sequence, and what shorter ones train at."""
    best = found.best
    lines = [
        f"The longest sequence that fits is {best.value:,} tokens, in steps of {asked_step:,}, with a global batch of {best.training.global_batch:,}.",
        *_next(found, "tokens"),
    ]
    reach = best.model.config.get("max_position_embeddings")
    if isinstance(reach, int) and 0 < reach < best.value:
        lines.append(f"The model's configuration has positions for {reach:,} tokens; longer sequences need other ones.")
    cases = found.cases
    return Answer(
        title=_title("longest sequence", best),
        first="tokens",
        columns=_COLUMNS,
        rows=tuple((f"{case.value:,}", case.plan, _figures(case)) for case in cases),
        best=cases.index(best),
        lines=tuple(lines),
        curve=_curve(found.cases, best, "tokens of a sequence", "longest that fits", "Tokens/s by sequence length"),
    )


def batch_answer(found: Largest, *, micro: bool) -> Answer:
    """The largest microbatch or global batch, and the fastest of those that were tried."""
    best, fastest, name = found.best, found.fastest, "microbatch" if micro else "global batch"
    value = f"{best.value:,} {'sequence' if best.value == 1 else 'sequences'}"
    most = fastest.estimate.tokens_per_s
    enough = next(case.value for case in found.cases if case.estimate.tokens_per_s >= (1 - _NEAR) * most)
    row = (
        f"Tried were divisors of the global batch {best.training.global_batch:,}."
        if micro
        else "Tried were multiples of the batch given."
    )
    lines = [
        f"The largest {name} that fits is {value}. {row}",
        *_next(found, "sequences"),
        f"Most tokens/s of those tried: {fastest.value:,} ({readable.count(most)} tokens/s); the smallest within 1% of that: {enough:,}.",
    ]
    if not micro and found.next_value is None:
        lines.append("Gradients accumulate over microbatches, so larger batches may fit too; --up-to tries them.")
    return Answer(
        title=_title(f"largest {name}", best),
        first=name,
        columns=_COLUMNS,
        rows=tuple((f"{case.value:,}", case.plan, _figures(case)) for case in found.cases),
        best=found.cases.index(best),
        lines=tuple(lines),
        curve=_curve(found.cases, best, f"sequences of a {name}", "largest that fits", f"Tokens/s by {name}"),
    )


def model_answer(found: Largest, model: ModelSpec, by: Growth) -> Answer:
    """The largest model of a family."""
    best = found.best
    grown = {"both": "depth and width grown alike", "depth": "depth alone grown", "width": "width alone grown"}[by]
    lines = [
        f"The largest model that fits has {_parameters(best.model)} parameters: {_shape_words(best)}; {model.name} with {grown}.",
    ]
    if found.next_fails_by is None:
        lines.append("None larger was tried.")
    else:
        lines.append(f"With the next larger one: {found.next_fails_by}.")
    if best.plan.offload.optimizer_fraction:
        lines.append(
            f"Its optimizer is {best.plan.offload.optimizer_place}; --forbid offload_optimizer asks for one that does without."
        )
    rows = tuple((_shape(case), case.plan, (_parameters(case.model), *_figures(case))) for case in found.cases)
    points = tuple((case.model.parameter_count / 1e9, case.estimate.tokens_per_s) for case in found.cases)
    return Answer(
        title=_title("largest model", best, model),
        first="layers x width",
        columns=("parameters", *_COLUMNS),
        rows=rows,
        best=found.cases.index(best),
        lines=tuple(lines),
        curve=Curve(
            title=_title("Tokens/s by parameters", best, model),
            x_label="parameters in billions",
            y_label="predicted tokens/s",
            points=points,
            labels=tuple(map(_shape, found.cases)),
            joined=tuple(range(len(points))),
            joined_label="models that fit",
            best=found.cases.index(best),
            best_label="largest that fits",
        ),
    )


def shape_answer(found: Shapes, model: ModelSpec) -> Answer:
    """Shapes at nearly equal parameters; `for its size` is tokens/s times active parameters, against the model's own."""
    best, given, cases = found.fastest, found.given, found.cases
    base = work_per_s(given or best)
    rows = tuple(
        (
            _shape(case),
            case.plan,
            (
                _parameters(case.model),
                readable.signed_share(case.model.parameter_count / model.parameter_count - 1),
                *_figures(case),
                readable.signed_share(work_per_s(case) / base - 1),
            ),
        )
        for case in cases
    )
    lines = [f"The fastest shape for its size is {_shape_words(best)}."]
    if given is None:
        lines.append(f"{model.name} itself does not fit; the last column is against the fastest.")
    lines += [f"With width {width:,}: {reason}." for width, reason in found.refused.items()]
    lines.append("Speed alone does not choose a shape: how well each one learns is not predicted.")
    points = tuple((float(case.model.hidden_size), case.estimate.tokens_per_s) for case in cases)
    return Answer(
        title=_title("shapes with the parameters of the model", best, model),
        first="layers x width",
        columns=("parameters", "change", *_COLUMNS, "for its size"),
        rows=rows,
        best=cases.index(best),
        lines=tuple(lines),
        curve=Curve(
            title=_title("Tokens/s by width at equal parameters", best, model),
            x_label="hidden width",
            y_label="predicted tokens/s",
            points=points,
            labels=tuple(map(_shape, cases)),
            joined=tuple(range(len(points))),
            joined_label="shapes",
            best=cases.index(best),
            best_label="fastest for its size",
            linear=True,
        ),
    )


def _title(question: str, case: Case, model: ModelSpec | None = None) -> str:
    return f"{question}: {(model or case.model).name} on {case.cluster.name}"


def _next(found: Largest, unit: str) -> list[str]:
    """What is known of the next value."""
    if found.next_value is None:
        return ["None larger was tried."]
    return [f"With the next, {found.next_value:,} {unit}: {found.next_fails_by}."]


def _figures(case: Case) -> tuple[str, ...]:
    estimate = case.estimate
    return (
        readable.seconds(estimate.step_seconds),
        readable.count(estimate.tokens_per_s),
        readable.share(estimate.mfu),
        readable.size(estimate.peak_memory_bytes),
    )


def _parameters(model: ModelSpec) -> str:
    return readable.amount(model.parameter_count)


def _shape(case: Case) -> str:
    return f"{case.model.layer_count} x {case.model.hidden_size:,}"


def _shape_words(case: Case) -> str:
    heads = case.model.layer_classes[0].attention.heads
    return f"{case.model.layer_count} layers of width {case.model.hidden_size:,} with {heads} heads"


def _curve(cases: tuple[Case, ...], best: Case, x_label: str, best_label: str, title: str) -> Curve:
    """Tokens/s by value."""
    return Curve(
        title=_title(title, best),
        x_label=x_label,
        y_label="predicted tokens/s",
        points=tuple((float(case.value), case.estimate.tokens_per_s) for case in cases),
        labels=tuple(str(case.plan.mesh) for case in cases),
        joined=tuple(range(len(cases))),
        joined_label="fastest plan of each",
        best=cases.index(best),
        best_label=best_label,
    )
