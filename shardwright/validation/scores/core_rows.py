"""The core of a table: the rows whose errors carry a target."""

from shardwright.validation.rows import TableRow, framework_family, is_deepspeed_zero3


def is_core(row: TableRow) -> bool:
    """All rows but three kinds whose times vary for reasons that no plan shows; those get an interval, not a target.

    - nanotron: single runs, of which several are slower on more devices than on fewer;
    - DeepSpeed ZeRO-3: the same step on 768 and on 1536 devices in SC21 Table 2, set by its software;
    - V100: nearly all from one machine whose network varied by 40% by its users' word.
    """
    return framework_family(row) != "nanotron" and not is_deepspeed_zero3(row) and "v100" not in (row.gpu or "").lower()
