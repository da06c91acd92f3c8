"""The options of a training run beyond its plan: steps, learning rate, data, output folder."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shardwright.specs import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec

TRACE_FOLDER = "trace"
"""Where in the folder of a run its recorded step lies."""

Compile = Literal["auto", "on", "off"]
Schedule = Literal["cosine", "linear", "constant", "wsd"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class RunOptions(Spec):
    """One training run's options.

    out: the folder that receives plan, options, step records, checkpoints and measurement.
    steps: optimizer steps in all, including those before a resume.
    until_tokens: the run ends with the step that reaches so many tokens, or after `steps`, where they are given, if that is earlier.
    until_hours: the run ends, saved, with the first step that ends so many hours after its start; the next start goes on.
    learning_rate: the peak, reached after `warmup_steps` (default: a tenth of the steps). `schedule` leads from there to
        `min_learning_rate_fraction` of it at the last step; "constant" stays, "wsd" stays until the last `decay_steps` (default: a tenth).
    weight_decay: AdamW's decoupled decay, on matrices only. clip_norm: largest global gradient norm; None never clips.
    router_bias_rate: after each step the bias of routers that have one (DeepSeek-V3) moves by so much towards experts with few tokens;
        None: it stays.
    data: files or folders; none means the source files of Python's standard library.
    data_weights: of a mixture, the share of each of `data` in the sequences, in any unit; none: all data are one source.
    data_format: "text" reads bytes as tokens, or text by `tokenizer`; "chat" JSON lines of conversations, of which the loss counts
        answers; "tokens" reads `.bin` arrays of `token_dtype` (default: the sidecar's
        type); "hf" reads a Hugging Face dataset on disk, whose `data_column` holds text or token ids.
    tokenizer: a folder with a tokenizer of transformers; None: that of `init_from`, or of the run of `resume_from`, where
        it holds one.
    checkpoint_every: steps between checkpoints, with one more at the last step; None writes none.
    every_minutes: minutes between checkpoints, beside `checkpoint_every`.
    checkpoint: "sync" writes while the steps wait; "async" copies to the host, and writes beside the next steps.
    keep_checkpoints: number of newest checkpoints that are kept.
    eval_data: files or folders of held-back data in `data_format`. Every `eval_every` steps, and at the last, the loss over `eval_batches`
        global batches of it is computed (fewer, if it holds fewer): always the same ones.
    tensorboard: write event files into `out`/tensorboard.
    wandb: write a run of Weights & Biases into `out`/wandb; "online" also sends it.
    resume: "auto" continues from the newest complete checkpoint in `out`, "never" refuses a folder that holds one.
    resume_from: a checkpoint of another run of the same model, under any plan, to start from.
    init_from: a folder of the model's weights in Hugging Face's layout, to start from; None: weights drawn from the seed.
    adapters_from: a folder in PEFT's format whose adapters the run starts from, with their alpha; None: PEFT's initial values.
    lora_alpha: numerator of the scale alpha / rank of adapters; None: their rank, as PEFT's defaults have it (8 of 8).
    timing_warmup_steps: first steps of the process that the timings leave out.
    trace_step: torch.profiler records the first step that the timings count (the last one where there are fewer), on one rank of each
        pipeline rank, into `out`/trace.
    offload_folder: a folder on the drives that a plan with state on drives uses; None: `out`/offload. What lies there goes with the process.
    ranks: number of ranks that this machine offers; None: its GPUs, or up to eight processes on a CPU.
    compile: whether torch.compile compiles each layer; "auto": on GPUs. Estimates are of layers that are not compiled.
    restarts: how many times lost ranks are started again from the newest checkpoint.
    timeout_seconds: the run ends where no rank has gone on for so long, and says which one did not arrive. Default: that of torch for gloo.
    """

    out: Path
    steps: PositiveInt = 100
    until_tokens: PositiveInt | None = None
    until_hours: PositiveFloat | None = None
    schedule: Schedule = "cosine"
    decay_steps: PositiveInt | None = None
    learning_rate: PositiveFloat = 3e-4
    min_learning_rate_fraction: Fraction = 0.1
    warmup_steps: NonNegativeInt | None = None
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat | None = 1.0
    router_bias_rate: PositiveFloat | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: tuple[Path, ...] = ()
    data_weights: tuple[PositiveFloat, ...] = ()
    data_format: Literal["text", "chat", "tokens", "hf"] = "text"
    token_dtype: Literal["uint16", "uint32"] | None = None
    data_column: str | None = None
    tokenizer: Path | None = None
    checkpoint_every: PositiveInt | None = 100
    every_minutes: PositiveFloat | None = None
    checkpoint: Literal["sync", "async"] = "sync"
    keep_checkpoints: PositiveInt = 2
    eval_data: tuple[Path, ...] = ()
    eval_every: PositiveInt | None = None
    eval_batches: PositiveInt = 8
    tensorboard: bool = False
    wandb: Literal["offline", "online"] | None = None
    resume: Literal["auto", "never"] = "auto"
    resume_from: Path | None = None
    init_from: Path | None = None
    adapters_from: Path | None = None
    lora_alpha: PositiveFloat | None = None
    log_every: PositiveInt = 1
    timing_warmup_steps: NonNegativeInt = 3
    trace_step: bool = False
    offload_folder: Path | None = None
    ranks: PositiveInt | None = None
    compile: Compile = "off"
    restarts: NonNegativeInt = 0
    timeout_seconds: PositiveFloat = 1800.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        counted = self.until_tokens is None or "steps" in self.model_fields_set
        if counted and self.warmup_steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds steps {self.steps}; give at most {self.steps}")
        if self.data_format == "chat" and not (self.tokenizer or self.init_from or self.resume_from):
            raise ValueError("data_format 'chat' needs a tokenizer, with a chat template for messages; give its folder")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(
                f"{len(self.data)} data have {len(self.data_weights)} weights; give one each, as --data FOLDER:0.7, or none"
            )
        if self.decay_steps is not None and self.schedule != "wsd":
            raise ValueError(f"decay_steps is for schedule 'wsd', not '{self.schedule}'; leave it out")
        if counted and self.learning_rate_warmup_steps + (self.decay_steps or 0) > self.steps:
            raise ValueError(
                f"{self.learning_rate_warmup_steps} warmup_steps and {self.decay_steps} decay_steps exceed steps {self.steps}; give fewer"
            )
        if (self.eval_every is None) != (not self.eval_data):
            raise ValueError("eval_data and eval_every go together; give both or neither")
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

    @property
    def learning_rate_decay_steps(self) -> int:
        """`decay_steps`, or a tenth of the steps where it is not given (Hu et al. 2024, arXiv 2404.06395, section 4.3)."""
        return -(-self.steps // 10) if self.decay_steps is None else self.decay_steps

    def with_steps_of_tokens(self, tokens_per_step: int) -> Self:
        """Return the options with the steps that `until_tokens` allows: those given, if they are fewer.

        Raises:
            SpecError: other options do not fit the steps.
        """
        if self.until_tokens is None:
            return self
        allowed = -(-self.until_tokens // tokens_per_step)
        steps = min(self.steps, allowed) if "steps" in self.model_fields_set else allowed
        given = self.model_dump(include=self.model_fields_set, mode="json")
        return self.parse({**given, "steps": steps}, source="run options")
