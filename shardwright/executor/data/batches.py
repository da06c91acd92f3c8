"""The batches of a plan's run: of windows of tokens or of documents, from one source or a mixture of several."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions

from .documents import DocumentBatches, Sequences
from .windows import START, Batches, Begins, named_data, open_batches, open_stream, shuffled

BLOCK = 1000
"""Sequences in which the shares are kept; a share is thus one of whole thousandths."""


class Mixture:
    """The global batch of a step, as a pure function of (seed, step, data): a source's sequences come in its own order.

    Every `BLOCK` sequences hold each source as often as its weight says, in an order that seed and block name. Sequence n of a source is
    then known without counting those before it.

    Raises:
        SpecError: a weight is less than half a thousandth of all of them.
    """

    def __init__(
        self,
        sources: Sequence[Batches | DocumentBatches],
        weights: Sequence[float],
        *,
        global_batch: int,
        seed: int,
        begins: Begins = START,
    ) -> None:
        self.sources, self._global_batch, self._seed, self._begins = tuple(sources), global_batch, seed, begins
        self._counts = _shares(weights)
        self._ends = np.cumsum(self._counts)

    @property
    def digest(self) -> str:
        described = " ".join(
            f"{source.digest} {count}" for source, count in zip(self.sources, self._counts, strict=True)
        )
        return hashlib.sha256(f"mixture {described}".encode()).hexdigest()[:16]

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(count / BLOCK for count in self._counts)

    def at(self, step: int, *, dp_rank: int = 0, dp_size: int = 1) -> Sequences:
        """Return the sequences of one data-parallel rank in `step` (from 1)."""
        share = self._global_batch // dp_size
        first = self._begins.first(step, self._global_batch) + dp_rank * share
        rows = [self.sources[source].row(number) for source, number in map(self.place, range(first, first + share))]
        inputs, labels = (
            torch.from_numpy(np.stack(part)) for part in ([row[0] for row in rows], [row[1] for row in rows])
        )
        places = [row[2] for row in rows if row[2] is not None]
        return Sequences(inputs, labels, torch.from_numpy(np.stack(places)) if places else None)

    def place(self, number: int) -> tuple[int, int]:
        """Return the source of the mixture's sequence `number`, and its number within the source."""
        block, place = divmod(number, BLOCK)
        drawn = shuffled(place, BLOCK, key=f"{self._seed}/mixture/{block}")
        source = int(np.searchsorted(self._ends, drawn, side="right"))
        before = int(self._ends[source - 1]) if source else 0
        return source, block * self._counts[source] + drawn - before


def _shares(weights: Sequence[float]) -> list[int]:
    """Return whole numbers that add up to `BLOCK`: the rounded shares of the weights, by largest remainders."""
    exact = np.array(weights) / sum(weights) * BLOCK
    counts = np.floor(exact).astype(int)
    for source in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[source] += 1
    if not counts.all():
        raise SpecError(
            f"weight {weights[int(counts.argmin())]:g} of {sum(weights):g} is less than one sequence in {BLOCK:,}; give a larger one, or leave the data out"
        )
    return [int(count) for count in counts]


PlanBatches = Batches | DocumentBatches | Mixture


def open_plan_batches(
    plan_file: PlanFile,
    options: RunOptions,
    *,
    progress: Callable[[str], None] = lambda _line: None,
    begins: Begins = START,
) -> PlanBatches:
    """Return the batches of a run of this plan, of documents where the plan is for documents of several lengths, and a mixture where
    the data have weights. `progress` is told what becomes of text. `begins`: of a phase of the run.

    Raises:
        SpecError: the model's config has no vocabulary size, or the data is not valid for it; it does not say where documents end.
    """
    if not options.data_weights:
        return _open_source(plan_file, options, progress, begins)
    sources = []
    for path in options.data:
        one = options.model_copy(update={"data": (path,), "data_weights": (1.0,)})
        sources.append(_open_source(plan_file, one, progress))
    batch, seed = plan_file.training.global_batch, options.seed
    return Mixture(sources, options.data_weights, global_batch=batch, seed=seed, begins=begins)


def open_held_back(plan_file: PlanFile, options: RunOptions) -> Batches | DocumentBatches | None:
    """Return the batches of the held-back data, in one order whatever the seed; None without any.

    Raises:
        SpecError: as `open_plan_batches`.
    """
    if not options.eval_data:
        return None
    held_back = options.model_copy(update={"data": options.eval_data, "data_weights": (), "seed": 0})
    return _open_source(plan_file, held_back, lambda _line: None)


def said_of(batches: PlanBatches, plan_file: PlanFile) -> Iterator[str]:
    """Yield lines on what the sequences of a run hold, beside what its plan counts with."""
    if isinstance(batches, Mixture):
        yield f"a mixture of {' and '.join(f'{share:.1%}' for share in batches.shares)} of the sequences"
        for source in batches.sources:
            yield from said_of(source, plan_file)
    if isinstance(batches, DocumentBatches):
        yield _said_of(batches, plan_file)


def _open_source(
    plan_file: PlanFile, options: RunOptions, progress: Callable[[str], None], begins: Begins = START
) -> Batches | DocumentBatches:
    vocab_size = plan_file.model_config_json.get("vocab_size")
    if not isinstance(vocab_size, int):
        raise SpecError(f"{plan_file.model_name}: its config has no vocab_size; add it to model_config_json")
    training = plan_file.training
    if training.lengths is not None:
        if options.data_format == "tokens":
            raise SpecError(
                f"data_format 'tokens' does not say where documents end, and the plan has them {training.packing}; give text or hf, or "
                "plan without --lengths"
            )
        return DocumentBatches(
            open_stream(options, vocab_size, progress=progress),
            packing=training.packing,
            seq_len=training.seq_len,
            global_batch=training.global_batch,
            seed=options.seed,
            named=named_data(options),
            begins=begins,
        )
    if options.data_format == "chat":
        raise SpecError(
            "data_format 'chat' trains on whole conversations, and the plan has none; plan with --lengths, such as --lengths "
            f"uniform:{max(2, training.seq_len // 8)}..{training.seq_len}"
        )
    return open_batches(
        options,
        seq_len=training.seq_len,
        global_batch=training.global_batch,
        vocab_size=vocab_size,
        progress=progress,
        begins=begins,
    )


def _said_of(batches: DocumentBatches, plan_file: PlanFile) -> str:
    training = plan_file.training
    masks = training.documents is not None and plan_file.plan.mesh.cp > 1
    slower = (
        "; cp masks scores between documents, and the prediction is for kernels that leave them out" if masks else ""
    )
    unanswered = (
        f"; {batches.left_out_share:.1%} of the pieces hold no answer and are left out"
        if batches.left_out_share
        else ""
    )
    planned = training.documents.mean() if training.documents else training.used_share * training.seq_len
    return (
        f"{training.packing} documents: {batches.used_share:.1%} of the sequences is no padding; pieces have {batches.mean_piece_tokens:,.0f} "
        f"tokens on average, {planned:,.0f} in the plan{unanswered}{slower}"
    )
