"""The core of a table: the rows whose errors have a target."""

from shardwright.validation.rows import TableRow, framework_family, is_deepspeed_zero3


def is_core(row: TableRow) -> bool:
    """Whether a row is of the core: all rows except three kinds whose times vary for reasons that no plan shows.

    - nanotron: single runs, several of which are slower on more devices than on fewer;
    - DeepSpeed ZeRO-3: the same step on 768 and on 1536 devices in SC21 Table 2, set by its software;
    - V100: nearly all from one machine, whose network varied by 40% according to its users.

    These kinds get an interval, not a target.
    """
    return framework_family(row) != "nanotron" and not is_deepspeed_zero3(row) and "v100" not in (row.gpu or "").lower()
