"""The learning rate of each step: the schedules of transformers' `optimization.py`, that go to a smallest fraction in place of zero."""

import math

from shardwright.executor import RunOptions


def learning_rate_at(step: int, options: RunOptions) -> float:
    """Return the learning rate of `step`, from 1: linear warm-up to the peak, then as `options.schedule` says.

    With W warm-up steps, S steps, D decay steps, f the smallest fraction and p = (s - W) / (S - W), the fraction of the peak is s / W for
    s <= W, and then

    - constant: 1
    - linear: 1 - (1 - f) p
    - cosine: f + (1 - f) (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts)
    - wsd: 1, and over the last D steps 1 - (1 - f) (s - S + D) / D (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395, section 4)

    transformers counts steps from 0: its rate of step s - 1 stands here at step s, whose first one is then not without effect.
    """
    warmup, lowest = options.learning_rate_warmup_steps, options.min_learning_rate_fraction
    if step <= warmup:
        return options.learning_rate * step / warmup
    progress = min(1.0, (step - warmup) / (options.steps - warmup))
    fallen = {
        "constant": 0.0,
        "linear": progress,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "wsd": max(0.0, step - options.steps + options.learning_rate_decay_steps)
        / max(1, options.learning_rate_decay_steps),
    }[options.schedule]
    return options.learning_rate * (1 - (1 - lowest) * min(1.0, fallen))
