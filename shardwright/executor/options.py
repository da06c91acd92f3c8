"""The options of a training run beyond its plan: steps, learning rate, data, output folder."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shardwright.specs import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec

Compile = Literal["auto", "on", "off"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class RunOptions(Spec):
    """One training run's options.

    out: the folder that receives plan, options, step records, checkpoints and measurement.
    steps: optimizer steps in all, including those before a resume.
    learning_rate: the peak, reached after `warmup_steps` (default: a tenth of the steps). A cosine leads from there to
        `min_learning_rate_fraction` of it at the last step.
    weight_decay: AdamW's decoupled decay, on matrices only. clip_norm: largest global gradient norm; None never clips.
    data: files or folders; none means the source files of Python's standard library.
    data_format: "text" reads bytes as tokens; "tokens" reads `.bin` arrays of `token_dtype` (default: the sidecar's
        type); "hf" reads a Hugging Face dataset on disk, whose `data_column` holds text or token ids.
    checkpoint_every: steps between checkpoints, with one more at the last step; None writes none.
    keep_checkpoints: number of newest checkpoints that are kept.
    resume: "auto" continues from the newest complete checkpoint in `out`, "never" refuses a folder that holds one.
    resume_from: a checkpoint of another run of the same model, under any plan, to start from.
    adapters_from: a folder in PEFT's format whose adapters the run starts from, with their alpha; None: PEFT's initial values.
    lora_alpha: numerator of the scale alpha / rank of adapters; None: their rank, as PEFT's defaults have it (8 of 8).
    timing_warmup_steps: first steps of the process that the timings leave out.
    offload_folder: a folder on the drives that a plan with state on drives uses; None: `out`/offload. What lies there goes with the process.
    ranks: number of ranks that this machine offers; None: its GPUs, or up to eight processes on a CPU.
    compile: whether torch.compile compiles each layer; "auto": on GPUs. Estimates are of layers that are not compiled.
    restarts: how many times lost ranks are started again from the newest checkpoint.
    """

    out: Path
    steps: PositiveInt = 100
    learning_rate: PositiveFloat = 3e-4
    min_learning_rate_fraction: Fraction = 0.1
    warmup_steps: NonNegativeInt | None = None
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat | None = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: tuple[Path, ...] = ()
    data_format: Literal["text", "tokens", "hf"] = "text"
    token_dtype: Literal["uint16", "uint32"] | None = None
    data_column: str | None = None
    checkpoint_every: PositiveInt | None = 100
    keep_checkpoints: PositiveInt = 2
    resume: Literal["auto", "never"] = "auto"
    resume_from: Path | None = None
    adapters_from: Path | None = None
    lora_alpha: PositiveFloat | None = None
    log_every: PositiveInt = 1
    timing_warmup_steps: NonNegativeInt = 3
    offload_folder: Path | None = None
    ranks: PositiveInt | None = None
    compile: Compile = "off"
    restarts: NonNegativeInt = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds steps {self.steps}; give at most {self.steps}")
        if self.adapters_from is not None and self.lora_alpha is not None:
            raise ValueError("adapters_from has an alpha of its own; leave out lora_alpha")
        if self.data_format != "text" and not self.data:
            raise ValueError(f"data_format '{self.data_format}' needs data: give at least one path")
        if self.token_dtype is not None and self.data_format != "tokens":
            raise ValueError(f"token_dtype is for data_format 'tokens', not '{self.data_format}'; leave it out")
        if self.data_column is not None and self.data_format != "hf":
            raise ValueError(f"data_column is for data_format 'hf', not '{self.data_format}'; leave it out")
        return self

    @property
    def learning_rate_warmup_steps(self) -> int:
        """`warmup_steps`, or a tenth of the steps where it is not given."""
        return self.steps // 10 if self.warmup_steps is None else self.warmup_steps
