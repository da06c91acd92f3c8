"""Layers over pipeline stages, as evenly as possible."""


def even_stages(layers: int, stages: int) -> list[int]:
    """Layers of each stage, as evenly as possible; the ends, which also hold embedding and head, get the fewer."""
    fewer, extra = divmod(layers, stages)
    middle_first = sorted(range(stages), key=lambda stage: abs(stage - (stages - 1) / 2))
    more = set(middle_first[:extra])
    return [fewer + (stage in more) for stage in range(stages)]
