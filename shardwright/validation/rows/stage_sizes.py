"""The layers of each pipeline stage of a row's run, by the rule of its software."""

from shardwright.specs import even_stages

from .stack import framework_family
from .table import TableRow


def stage_sizes(row: TableRow, layers: int, stages: int) -> list[int]:
    """Layers of each stage, first to last. nanotron splits by compute cost, InternEvo puts the remainder at the end
    (`partition_uniform`), all others split as evenly as possible."""
    family, costs = framework_family(row), (row.hidden, row.ffn_hidden, row.vocab)
    if family == "InternEvo":
        fewer, extra = divmod(layers, stages)
        return [fewer + (stage >= stages - extra) for stage in range(stages)]
    if family != "nanotron" or stages == 1 or None in costs:
        return even_stages(layers, stages)
    hidden, ffn_width, vocabulary = (value or 0 for value in costs)
    sizes = by_cost(4.0 * hidden**2 + 3.0 * ffn_width * hidden, float(vocabulary * hidden), layers, stages)
    return sizes if all(sizes) else even_stages(layers, stages)


def by_cost(layer_cost: float, head_cost: float, layers: int, stages: int) -> list[int]:
    """Layers of each stage as nanotron deals out blocks (`build_model` in models/base.py).

    A stage takes blocks until its cost is above its share, and keeps the block that crosses. The head counts at the
    end; the embedding does not count. The first stages get one layer more than in an even split.
    """
    total = layers * layer_cost + head_cost
    sizes, stage = [0] * stages, 0
    for layer in range(1, layers + 1):
        sizes[stage] += 1
        if stage < stages - 1 and layer * layer_cost > total * (stage + 1) / stages:
            stage += 1
    return sizes
