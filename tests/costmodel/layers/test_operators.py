"""Kept bytes of one layer, counted kernel by kernel."""

import pytest

from shardwright.costmodel.layers.operators import context_length, saved_bytes, score_bytes
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.layers.test_traffic import GPT, HIDDEN


@pytest.mark.parametrize(
    ("window", "mean"),
    [(None, (1 + 2 + 3 + 4) / 4), (2, (1 + 2 + 2 + 2) / 4), (1, 1), (9, (1 + 2 + 3 + 4) / 4)],
)
def test_keys_that_a_query_of_four_sees(window: int | None, mean: float) -> None:
    assert context_length(4, window) == mean


class TestKorthikanti:
    """Korthikanti et al. 2022 (arXiv 2205.05198): bytes a layer keeps, divided by s b h; here a s / h = 8."""

    SEQ = 128
    training = TrainingSpec(
        seq_len=SEQ, global_batch=1, stack="megatron-lm", attention="unfused", precision=Precision(compute="fp16")
    )
    scores = 5 * 4 * SEQ / HIDDEN

    def per_hidden(self, *, tp: int, sequence_split: int) -> float:
        kept = saved_bytes(GPT, self.training, HIDDEN, tp, sequence_split) + score_bytes(GPT, self.training, tp)
        return float(kept) / HIDDEN

    def test_equation_1_no_parallelism(self) -> None:
        assert self.per_hidden(tp=1, sequence_split=1) == 34 + self.scores

    def test_equation_2_tensor_parallel(self) -> None:
        assert self.per_hidden(tp=4, sequence_split=1) == 10 + 24 / 4 + self.scores / 4

    def test_equation_4_sequence_parallel(self) -> None:
        assert self.per_hidden(tp=4, sequence_split=4) == 34 / 4 + self.scores / 4
