"""The training loop of one rank."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from shardwright.base import GIB, RunFailedError, SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.offload import Kind, Place
from shardwright.executor.parallel import Engine, build_engine, compiles
from shardwright.specs import HeldBytes, Measurement, OffloadMeasurement, StepRecord, read_measurement

from .checkpoint import DamagedError, Trainee, load_checkpoint, save_checkpoint
from .data import Batches, open_batches, open_stream
from .documents import DocumentBatches, Sequences
from .fingerprint import read_fingerprint
from .frozen_start import adapter_settings, adapter_start, frozen_from
from .manifest import Manifest
from .meter import MemoryMeter, MemoryPeak, StepMeter
from .optimizer import host_optimizer, learning_rate_at
from .run_folder import RunFolder, Start, plan_digest


def open_plan_batches(plan_file: PlanFile, options: RunOptions) -> Batches | DocumentBatches:
    """Return the batches of a run of this plan, of documents where the plan is for documents of several lengths.

    Raises:
        SpecError: the model's config has no vocabulary size, or the data is not valid for it; it does not say where documents end.
    """
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
            open_stream(options, vocab_size),
            packing=training.packing,
            seq_len=training.seq_len,
            global_batch=training.global_batch,
            seed=options.seed,
        )
    return open_batches(options, seq_len=training.seq_len, global_batch=training.global_batch, vocab_size=vocab_size)


class Trainer:
    """One rank of a run: builds the model, resumes, takes the steps, measures. Needs a process group.

    `progress` receives a line every `log_every` steps, on rank 0 only. After the model is built nothing is random, as
    the engine trains without dropout. A step depends on parameters, optimizer and data alone.
    """

    def __init__(
        self,
        plan_file: PlanFile,
        options: RunOptions,
        folder: RunFolder,
        *,
        device: torch.device,
        progress: Callable[[str], None],
    ) -> None:
        self._plan_file, self._options, self._folder = plan_file, options, folder
        self._device, self._progress, self._leads = device, progress, dist.get_rank() == 0
        self._memory, self._meter = MemoryMeter(device), StepMeter(device)
        self._batches = open_plan_batches(plan_file, options)
        _check_same_data(self._batches)
        if isinstance(self._batches, DocumentBatches):
            self._tell(_said_of(self._batches, plan_file))
        self._engine: Engine = build_engine(
            plan_file,
            device=device,
            seed=options.seed,
            compile_layers=compiles(options.compile, device),
            offload_folder=options.offload_folder or options.out / "offload",
            adapters=None if (start := adapter_start(plan_file, options, device)) is None else start.initial,
        )
        optimizer = host_optimizer(
            self._engine.model_parts, plan_file.training.optimizer, options, self._engine.offload
        )
        self._trainee = Trainee(self._engine.model_parts, optimizer, self._engine.tied_names)
        self._records: list[StepRecord] = []

    def run(self) -> Measurement:
        """Take all remaining steps; return the measurement on every rank. Rank 0 writes it to the folder."""
        start = self._resume()
        if start == self._options.steps:  # a rank was lost after the last checkpoint, and all were started again
            return read_measurement(self._folder.measurement)
        if self._leads:
            self._records = self._folder.keep_steps_until(start)
        for step in range(start + 1, self._options.steps + 1):
            self._record(self._step(step))
            if step == self._options.steps:
                measurement = self._measure()
            self._checkpoint_if_due(step)
        if self._engine.offload is not None:
            self._engine.offload.close()
        return measurement

    def _resume(self) -> int:
        """Load the checkpoint to continue from, if any; return the number of steps already taken."""
        damaged: list[Path] = []
        while True:
            # ranks that look at different moments must agree
            found: list[Start | SpecError | None] = [self._start(damaged) if self._leads else None]
            dist.broadcast_object_list(found)
            start = found[0]
            if isinstance(start, SpecError):
                raise start
            assert start is not None
            for fault in start.passed:
                self._tell(f"passed over: {fault}")
            if start.checkpoint is None:
                return start.step
            try:
                load_checkpoint(start.checkpoint, self._trainee, self._plan_file)
            except DamagedError as fault:
                damaged.append(start.checkpoint)
                self._tell(f"passed over: {fault}")
                continue
            self._tell(f"continuing from {start.checkpoint} after step {start.step}")
            return start.step

    def _start(self, damaged: list[Path]) -> Start | SpecError:
        try:
            return self._folder.start(self._plan_file, self._options, damaged=damaged)
        except SpecError as error:
            return error

    def _step(self, step: int) -> StepRecord:
        engine, options = self._engine, self._options
        rate = learning_rate_at(step, options)
        with self._meter.step():
            with self._meter.part("data"):
                given = self._batches.at(step, dp_rank=engine.dp_rank, dp_size=engine.dp_size)
                inputs, labels = given[0].to(self._device), given[1].to(self._device)
                places = given.places if isinstance(given, Sequences) else None
            self._trainee.optimizer.set_learning_rate(rate)
            with self._meter.part("forward_backward"):
                loss = float(engine.forward_backward(inputs, labels, places))
            with self._meter.part("optimizer"):
                norm = engine.clip_gradients(options.clip_norm)
                self._need_finite(step, loss, norm)
                self._trainee.optimizer.step()
                engine.zero_gradients()
        return StepRecord(
            step=step, loss=loss, gradient_norm=norm, learning_rate=rate, seconds=self._meter.last_seconds
        )

    def _record(self, record: StepRecord) -> None:
        if not self._leads:
            return
        self._records.append(record)
        self._folder.append_step(record)
        if record.step % self._options.log_every == 0 or record.step == self._options.steps:
            self._tell(self._progress_line(record))

    def _progress_line(self, record: StepRecord) -> str:
        mfu, estimate = self._mfu(record.seconds), self._plan_file.estimate
        parts = [
            f"step {record.step}/{self._options.steps}",
            f"loss {record.loss:.4f}",
            f"lr {record.learning_rate:.2e}",
            f"{self._plan_file.training.tokens_per_step / record.seconds:,.0f} tokens/s",
            *([f"MFU {mfu:.1%}"] if mfu else []),
            f"{record.seconds:.3f} s" + (f" (predicted {estimate.step_seconds:.3f} s)" if estimate else ""),
            f"memory {self._memory.read().peak / GIB:.2f} GiB",
        ]
        return "  ".join(parts)

    def _mfu(self, step_seconds: float) -> float | None:
        """Model FLOPs of a step over the peak FLOPs of the ranks' devices in that
        time (Chowdhery et al. 2022, appendix B)."""
        device = self._plan_file.cluster.node.device
        peak = device.peak_flops_per_s.get(self._plan_file.training.precision.compute)
        estimate = self._plan_file.estimate
        if estimate is None or peak is None or device.torch_type != self._device.type:
            return None
        return estimate.model_flops / (step_seconds * dist.get_world_size() * peak)

    def _checkpoint_if_due(self, step: int) -> None:
        every = self._options.checkpoint_every
        if every is None or (step % every and step != self._options.steps):
            return
        plan_file = self._plan_file
        manifest = Manifest(
            step=step,
            model_name=plan_file.model_name,
            model_config_json=plan_file.model_config_json,
            optimizer=plan_file.training.optimizer,
            plan_digest=plan_digest(plan_file),
            data_digest=self._batches.digest,
            seed=self._options.seed,
            files={},
            trainable=str(plan_file.training.trainable),
            frozen_from=frozen_from(plan_file, self._options),
            adapters=adapter_settings(plan_file, self._options),
        )
        with self._memory.paused():
            save_checkpoint(self._folder.checkpoints, self._trainee, manifest, keep=self._options.keep_checkpoints)

    def _measure(self) -> Measurement:
        warmup = self._options.timing_warmup_steps
        gathered: list[tuple[MemoryPeak, dict[str, float]]] = [(MemoryPeak(0, 0, None), {})] * dist.get_world_size()
        dist.all_gather_object(gathered, (self._memory.read(), self._meter.part_medians_after(warmup)))
        peaks, parts = [peak for peak, _ in gathered], [part for _, part in gathered]
        seconds = self._meter.seconds_after(warmup)
        median = statistics.median(seconds)
        low, high = np.quantile(seconds, [0.1, 0.9])
        reserved = [peak.reserved for peak in peaks if peak.reserved is not None]
        measured = [
            Measurement(
                ranks=dist.get_world_size(),
                warmup_steps=self._meter.left_out(warmup),
                step_seconds=median,
                step_seconds_low=float(low),
                step_seconds_high=float(high),
                part_seconds=max(parts, key=lambda part: sum(part.values())),
                tokens_per_s=self._plan_file.training.tokens_per_step / median,
                mfu=self._mfu(median),
                offload=self._measure_offload(),
                peak_memory_bytes=tuple(peak.peak for peak in peaks),
                memory_kind="allocated" if self._device.type == "cuda" else "resident",
                peak_reserved_bytes=tuple(reserved) or None,
                baseline_memory_bytes=tuple(peak.baseline for peak in peaks),
                steps=tuple(self._records),
                fingerprint=read_fingerprint(self._device),
            )
        ]
        dist.broadcast_object_list(measured)  # only rank 0 has the records from before a resume
        if self._leads:
            self._folder.write_measurement(measured[0])
        return measured[0]

    def _measure_offload(self) -> OffloadMeasurement | None:
        """Return what the engines of all ranks held; every rank calls this."""
        offload = self._engine.offload
        if offload is None:
            return None
        offload.settle()
        ledger = offload.ledger
        gathered = [(ledger.peaks, ledger.peak_bytes("host"), ledger.limits["host"])] * dist.get_world_size()
        dist.all_gather_object(gathered, gathered[0])
        largest: dict[tuple[Kind, Place], int] = {}
        for peaks, _, _ in gathered:
            for key, held in peaks.items():
                largest[key] = max(held, largest.get(key, 0))
        return OffloadMeasurement(
            held=tuple(
                HeldBytes(kind=kind, place=place, peak_bytes=held) for (kind, place), held in sorted(largest.items())
            ),
            host_peak_bytes=tuple(peak for _, peak, _ in gathered),
            host_plan_bytes=tuple(limit for _, _, limit in gathered),
        )

    def _need_finite(self, step: int, loss: float, gradient_norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            return
        early = self._engine.offload is not None and self._options.clip_norm is None
        left = (
            "the newest checkpoint is whole" if early else "the parameters are those of the step before"
        )  # without clipping, the host may have begun its update
        raise RunFailedError(
            f"step {step}: the loss is {loss} and the gradient norm {gradient_norm}; training has diverged, {left}. Try a lower learning_rate or more warmup_steps"
        )

    def _tell(self, line: str) -> None:
        if self._leads:
            self._progress(line)


def _said_of(batches: DocumentBatches, plan_file: PlanFile) -> str:
    training = plan_file.training
    masks = training.documents is not None and plan_file.plan.mesh.cp > 1
    slower = (
        "; cp masks scores between documents, and the prediction is for kernels that leave them out" if masks else ""
    )
    planned = training.documents.mean() if training.documents else training.used_share * training.seq_len
    return (
        f"{training.packing} documents: {batches.used_share:.1%} of the sequences is no padding; pieces have {batches.mean_piece_tokens:,.0f} "
        f"tokens on average, {planned:,.0f} in the plan" + slower
    )


def _check_same_data(batches: Batches | DocumentBatches) -> None:
    digests = [""] * dist.get_world_size()
    dist.all_gather_object(digests, batches.digest)
    if len(set(digests)) > 1:
        different = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        raise SpecError(
            f"rank {different} finds other data than rank 0; give every node the same files (the default, Python's own sources, differs between Python versions)"
        )
