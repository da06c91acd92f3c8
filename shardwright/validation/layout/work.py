"""The sequences of a step and their length, where a row leaves them out."""

import re

from shardwright.validation.table import TableRow

_BATCH_TOKENS = re.compile(r"\bbatch (\d+(?:\.\d+)?)M tokens")
_USUAL_LENGTH = 2048
_USUAL_SEQUENCES = 8


def with_work(row: TableRow) -> tuple[TableRow, list[str]]:
    """`row` with a sequence length and a batch, and what was assumed; unknown ones stay where they would change the metric.

    Tokens per second hardly depend on the length while the matmuls of a layer outweigh its attention, which holds below
    about 8,000 tokens. Without a pipeline they hardly depend on the number of microbatches either. So a length of 2,048
    stands for an unknown one, and one microbatch a rank for an unknown batch; eight sequences where the microbatch is
    unknown too. Notes may give the batch in millions of tokens ("batch 0.5M tokens": 2^19).
    """
    assumptions, changes = [], {}
    in_tokens = (row.metric_name or "").startswith("tokens_per_s")
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
    return row.model_copy(update=changes), assumptions
