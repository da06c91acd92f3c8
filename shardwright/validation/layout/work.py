"""The sequences of a step and their length, where a row leaves them out."""

import re

from shardwright.validation.table import TableRow

_BATCH_TOKENS = re.compile(r"\bbatch (\d+(?:\.\d+)?)M tokens")
_USUAL_LENGTH = 2048
_USUAL_SEQUENCES = 8
# Llama 2 was trained with it (arXiv 2307.09288, section 2.2), and large models since with a few times as much.
_USUAL_TOKENS = 2**22
# Micro batches of torchtitan's own configuration files (torchtitan/models/*/train_configs), by the model's name.
_TORCHTITAN_MICRO_BATCHES = (
    (r"deepseek.*671b", 4),
    (r"deepseek.*16b|llama-?4|17b-?x?16e", 8),
    (r"llama.*405b", 2),
    (r"llama.*70b", 8),
    (r"llama.*\b8b", 1),
)
_RATES = ("tokens_per_s", "tflops_per_gpu", "mfu_pct")


def with_work(row: TableRow) -> tuple[TableRow, list[str]]:
    """`row` with a sequence length and a batch, and what was assumed; unknown ones stay where they would change the metric.

    Tokens per second hardly depend on the length while the matmuls of a layer outweigh its attention, which holds below
    about 8,000 tokens. Without a pipeline they hardly depend on the number of microbatches either. So a length of 2,048
    stands for an unknown one, and one microbatch a rank for an unknown batch; eight sequences where the microbatch is
    unknown too. In a pipeline the batch is 4M tokens, rounded so that the microbatches fill the stages evenly, and at least
    one for each stage. Notes may give the batch in millions of tokens ("batch 0.5M tokens": 2^19).
    """
    row, assumptions = _with_configured_micro_batch(row)
    changes = {}
    in_tokens, is_rate = ((row.metric_name or "").startswith(names) for names in (_RATES[:1], _RATES))
    length = row.seq_len
    if length is None and in_tokens:
        length = changes["seq_len"] = _USUAL_LENGTH
        assumptions.append(f"sequences of {_USUAL_LENGTH} tokens")
    tokens = _BATCH_TOKENS.search(row.notes or "")
    if row.global_batch is None and tokens and length:
        changes["global_batch"] = max(1, round(float(tokens[1]) * 2**20 / length))
    elif row.global_batch is None and row.dp and row.pp == 1 and in_tokens:
        each = row.micro_batch or _USUAL_SEQUENCES
        changes["global_batch"] = each * row.dp
        assumptions.append("one microbatch on each rank" if row.micro_batch else f"{each} sequences on each rank")
    elif row.global_batch is None and is_rate and length and (ranks := _data_parallel_ranks(row)):
        even = ranks * (row.pp or 1) * (row.micro_batch or 1)
        changes["global_batch"] = even * max(1, round(_USUAL_TOKENS / length / even))
        assumptions.append(f"a batch of {changes['global_batch'] * length / 2**20:.0f}M tokens")
    return row.model_copy(update=changes), assumptions


def _with_configured_micro_batch(row: TableRow) -> tuple[TableRow, list[str]]:
    """`row` with the micro batch of torchtitan's configuration for its model, where it has none and that divides the batch."""
    if row.micro_batch is not None or (row.pp or 1) > 1 or "torchtitan" not in (row.framework or "").lower():
        return row, []
    name = (row.model or "").lower()
    size = next((size for pattern, size in _TORCHTITAN_MICRO_BATCHES if re.search(pattern, name)), None)
    if size is None or (row.global_batch or 0) % (size * (_data_parallel_ranks(row) or 1)):
        return row, []
    return row.model_copy(update={"micro_batch": size}), [
        f"micro batch {size}, of torchtitan's configuration for this model"
    ]


def _data_parallel_ranks(row: TableRow) -> int | None:
    model_ranks = (row.tp or 1) * (row.pp or 1) * (row.cp or 1)
    return row.dp or (row.gpus // model_ranks if row.gpus and row.gpus % model_ranks == 0 else None)
