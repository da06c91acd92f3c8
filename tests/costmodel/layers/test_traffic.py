"""Memory traffic of one layer, counted kernel by kernel."""

import pytest

from shardwright.costmodel.layers.traffic import Moving, backward_traffic, forward_traffic
from shardwright.costmodel.op_times.passes import operator_passes
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.model.norm import Norm
from shardwright.specs.training import Precision, TrainingSpec

HIDDEN, QUERY, KEY, WIDTH = 64, 64, 32, 160

LLAMA = Block(attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=16), ffn=FeedForward(width=WIDTH, gated=True))
GPT = Block(
    attention=MultiHeadAttention(heads=4, kv_heads=4, head_size=16, qkv_bias=True, output_bias=True),
    ffn=FeedForward(width=4 * HIDDEN, gated=False, bias=True),
    norm=Norm(kind="layernorm", bias=True),
)


def model(block: Block, *, positions: int = 0) -> ModelSpec:
    return ModelSpec(
        name="one", family="gpt2" if positions else "llama", hidden_size=HIDDEN, vocab_size=1000, positions=positions,
        blocks=(BlockRun(count=1, block=block),),
    )  # fmt: skip


ROTARY, LEARNED = model(LLAMA), model(GPT, positions=128)


def job(stack: str = "shardwright", **more: object) -> TrainingSpec:
    given = {"seq_len": 128, "global_batch": 8, "stack": stack, "precision": Precision(compute="bf16")}
    return TrainingSpec.parse(given | more, source="test")


EAGER, COMPILED, MEGATRON = job(), job("torchtitan-compiled-loss"), job("megatron-core")


def totals(traffic: tuple[Moving, ...], element_bytes: int = 2) -> tuple[float, float]:
    """Elements read or written per token, of the hidden state and between the matmuls."""
    passes = [operator_passes(each.operator, element_bytes, backward=each.backward) for each in traffic]
    return (
        sum(float(each.count * moved * each.hidden) for each, moved in zip(traffic, passes, strict=True)),
        sum(float(each.count * moved * each.inner) for each, moved in zip(traffic, passes, strict=True)),
    )


def test_an_eager_llama_layer_forward() -> None:
    """Two RMS norms of 18 passes, two residuals of three; rotary embedding 10, SwiGLU 5."""
    assert totals(forward_traffic(LLAMA, ROTARY, EAGER)) == (
        (2 * 18 + 2 * 3) * HIDDEN,
        10 * (QUERY + KEY) + 5 * WIDTH,
    )


def test_an_eager_llama_layer_backward() -> None:
    """The norms 46 passes each, the residuals 3; gradients of q's, k's and v's input take two additions, of gate's and up's
    one; rotary 14, and its gradients copied 2; SwiGLU 9."""
    assert totals(backward_traffic(LLAMA, ROTARY, EAGER)) == (
        (2 * 46 + 2 * 3 + (2 + 1) * 3) * HIDDEN,
        (14 + 2) * (QUERY + KEY) + 9 * WIDTH,
    )


def test_an_eager_norm_in_fp32_casts_nothing() -> None:
    traffic = forward_traffic(LLAMA, ROTARY, EAGER)
    assert totals(traffic)[0] - totals(traffic, 4)[0] == 2 * (18 - 7) * HIDDEN
    traffic = backward_traffic(LLAMA, ROTARY, EAGER)
    assert totals(traffic)[0] - totals(traffic, 4)[0] == 2 * (46 - 23) * HIDDEN


def test_a_compiled_llama_layer() -> None:
    """A norm reads and writes once, and 5 backward; the rotary embedding 2; SwiGLU reads two and writes one, and 5 backward.
    The norm's kernel reads the three further gradients of its output, and writes rotated ones where they belong. torchtitan
    writes keys for four heads in place of two, reads values for two and writes them for four; backward the other way."""
    repeated = (QUERY - KEY) + (QUERY + KEY)
    assert totals(forward_traffic(LLAMA, ROTARY, COMPILED)) == (
        (2 * 2 + 2 * 3) * HIDDEN,
        2 * (QUERY + KEY) + repeated + 3 * WIDTH,
    )
    assert totals(backward_traffic(LLAMA, ROTARY, COMPILED)) == (
        (2 * 5 + 2 * 3 + 3) * HIDDEN,
        2 * (QUERY + KEY) + repeated + 5 * WIDTH,
    )


def test_an_eager_stack_copies_keys_and_values_for_each_query_head() -> None:
    """Each is read for two heads and written for four; as many heads as queries are not copied."""
    eager, alike = (
        job("torchtitan-eager"),
        LLAMA.model_copy(update={"attention": MultiHeadAttention(heads=4, kv_heads=4, head_size=16)}),
    )
    for traffic in (forward_traffic, backward_traffic):
        more = totals(traffic(LLAMA, ROTARY, eager))[1] - totals(traffic(LLAMA, ROTARY, EAGER))[1]
        assert more == 2 * (QUERY + KEY)
        assert totals(traffic(alike, model(alike), eager)) == totals(traffic(alike, model(alike), EAGER))


def test_joined_projections_join_gradients_and_add_none() -> None:
    assert totals(backward_traffic(LLAMA, ROTARY, MEGATRON)) == (
        (2 * 5 + 2 * 3) * HIDDEN,
        2 * (QUERY + KEY) + 2 * (QUERY + 2 * KEY) + 5 * WIDTH,
    )


@pytest.mark.parametrize("training", [EAGER, COMPILED, MEGATRON], ids=["eager", "compiled", "megatron"])
def test_a_gpt_layer_is_the_same_on_any_stack(training: TrainingSpec) -> None:
    """A layer norm is one kernel always, positions are learned, GeLU reads and writes once: nothing is left to fuse. GPT's q,
    k and v are one matmul, whose output's gradient is joined. A bias reads the gradient of what it was added to: of output
    and down projection, and of query, key, value and up projection."""
    assert totals(forward_traffic(GPT, LEARNED, training)) == ((2 * 2 + 2 * 3) * HIDDEN, 2 * 4 * HIDDEN)
    assert totals(backward_traffic(GPT, LEARNED, training)) == (
        (2 * 5 + 2 * 3 + 2) * HIDDEN,
        2 * 3 * HIDDEN + 3 * 4 * HIDDEN + (3 + 4) * HIDDEN,
    )


def test_unfused_attention_copies_its_output_and_the_gradient_of_it() -> None:
    unfused = EAGER.model_copy(update={"attention": "unfused"})
    for traffic in (forward_traffic, backward_traffic):
        fused, copied = (totals(traffic(LLAMA, ROTARY, training))[1] for training in (EAGER, unfused))
        assert copied - fused == 2 * QUERY


@pytest.mark.parametrize(
    ("stack", "forward"), [("torchtitan-eager", 2.5), ("megatron-lm", 0)], ids=["unfused", "fused"]
)
def test_dropout_reads_and_writes_once_more_a_sublayer(
    monkeypatch: pytest.MonkeyPatch, stack: str, forward: float
) -> None:
    """Its forward is part of the residual's kernel where that is fused; its mask has a byte for each element."""
    plain, dropping = (job(stack).software.model_copy(update={"dropout": dropout}) for dropout in (False, True))
    for traffic, passes in ((forward_traffic, forward), (backward_traffic, 2.5)):
        moved = []
        for software in (plain, dropping):
            monkeypatch.setattr(TrainingSpec, "software", software)
            moved.append(totals(traffic(GPT, LEARNED, EAGER))[0])
        assert moved[1] - moved[0] == 2 * passes * HIDDEN


def test_a_parallel_block_has_one_residual() -> None:
    parallel = LLAMA.model_copy(update={"parallel": True, "norm_count": 1})
    assert totals(forward_traffic(parallel, ROTARY, EAGER))[0] == (18 + 3) * HIDDEN


EXPERTS = MixtureOfExperts(experts=8, top_k=2, expert_width=48)
PLAIN = LLAMA.model_copy(update={"ffn": EXPERTS})
CLAMPED = LLAMA.model_copy(update={"ffn": EXPERTS.model_copy(update={"clamped": True})})
BIASED = LLAMA.model_copy(update={"ffn": EXPERTS.model_copy(update={"bias": True})})


class TestBiasedExpertsWithAClampedGate:
    """Two of eight experts of 48 columns for each token, as in gpt-oss."""

    def more(self, block: Block, training: TrainingSpec) -> tuple[float, float]:
        """Elements between the matmuls that a block's forward and backward move beyond the plain one's."""
        forward, backward = (
            totals(traffic(block, model(block), training))[1] - totals(traffic(PLAIN, ROTARY, training))[1]
            for traffic in (forward_traffic, backward_traffic)
        )
        return forward, backward

    def test_eager_pytorch_runs_the_clamped_gate_as_a_chain(self) -> None:
        """16 reads and writes of each column in place of 5, and 43 in place of 9 backward."""
        assert self.more(CLAMPED, EAGER) == pytest.approx((2 * 48 * (16 - 5), 2 * 48 * (43 - 9)))

    @pytest.mark.parametrize("training", [COMPILED, MEGATRON], ids=["compiled", "megatron"])
    def test_one_kernel_costs_the_same(self, training: TrainingSpec) -> None:
        assert self.more(CLAMPED, training) == (0, 0)

    def test_a_stack_may_fuse_the_activation_of_experts_alone(self) -> None:
        """NeMo AutoModel compiles it: 3 and 5 passes of each column; a dense feed-forward takes 5 and 9."""
        automodel = job("automodel")
        for traffic, fused, eager in ((forward_traffic, 3, 5), (backward_traffic, 5, 9)):
            activations = [each for each in traffic(CLAMPED, ROTARY, automodel) if each.operator == "gated_activation"]
            assert totals(tuple(activations))[1] == fused * 2 * 48
            dense = [each for each in traffic(LLAMA, ROTARY, automodel) if each.operator == "eager_gated_activation"]
            assert totals(tuple(dense))[1] == eager * WIDTH

    def test_transformers_gathers_biases_and_adds_them(self) -> None:
        """4 of each output of both matmuls; backward one, and the sum of the gradients."""
        outputs = 2 * (2 * 48 + HIDDEN)
        assert self.more(BIASED, EAGER) == pytest.approx((4 * outputs, 2 * outputs))

    def test_megatron_adds_those_of_the_second_matmul_expert_by_expert(self) -> None:
        sums = 2 * (2 * 48 + HIDDEN)
        assert self.more(BIASED, MEGATRON) == pytest.approx((14 * 2 * HIDDEN, 20 * 2 * HIDDEN + sums))

    def test_recompute_of_the_activation_repeats_the_chain(self) -> None:
        """What selective recompute by modules takes from the traffic keeps the number of runs."""
        chain = [each for each in forward_traffic(CLAMPED, ROTARY, EAGER) if each.operator.endswith("activation")]
        assert [each.count for each in chain] == [16 / 5]


def test_sorting_operator_by_operator_moves_more() -> None:
    """Of each copy of a token half an element more forward, and 5.5 backward (Megatron-Core before 0.11)."""
    outputs = 2 * HIDDEN
    for traffic, passes in ((forward_traffic, 0.5), (backward_traffic, 5.5)):
        before, since = (
            totals(traffic(PLAIN, ROTARY, job(name)))[1] for name in ("megatron-core-0.8", "megatron-core-0.12")
        )
        assert before - since == pytest.approx(passes * outputs)
