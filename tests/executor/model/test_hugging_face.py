import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.executor.model.check_division import check_tensor_parallel
from shardwright.executor.model.hugging_face import read_skeleton
from tests.parity.cases import FamilyName, layers, model_config, plan, plan_file

WHOLE = plan((layers(2),))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_the_model_holds_no_storage_and_no_dropout(family: FamilyName) -> None:
    skeleton = read_skeleton(plan_file(model_config(family), WHOLE))
    assert {parameter.device.type for parameter in skeleton.model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in skeleton.model.parameters()} == {torch.float32}
    rates = [rate for key, rate in vars(skeleton.config).items() if key.endswith(("dropout", "pdrop"))]
    assert rates
    assert not any(rates)
    assert skeleton.tied == (family == "gpt2")


def test_a_config_in_bf16_still_has_fp32_parameters() -> None:
    skeleton = read_skeleton(plan_file(model_config("llama", torch_dtype="bfloat16"), WHOLE))
    assert skeleton.model.dtype == torch.float32


def test_code_named_in_a_config_is_not_loaded() -> None:
    config = model_config("llama", auto_map={"AutoModelForCausalLM": "evil--modeling.Evil"})
    assert type(read_skeleton(plan_file(config, WHOLE)).model).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "lama"}, "model_type 'lama' of tiny-lama is no causal language model of transformers$"),
        ({"model_type": "t5"}, "model_type 't5' of tiny-t5 is no causal language model of transformers$"),
        (model_config("llama", layers=3), "stages hold 2 layers, tiny-llama has 3"),
        (model_config("gpt2", n_positions=8), "seq_len 16 is more than the 8 positions of tiny-gpt2; give 8 or less"),
        (model_config("gpt2", n_embd=30), "tiny-gpt2: its config is not a valid GPT2Config: .*divisible"),
        (model_config("llama", hidden_size="wide"), "tiny-llama: its config is not a valid LlamaConfig"),
        (model_config("llama", rope_scaling={"rope_type": "nonsense"}), "tiny-llama: its config is not a valid Llama"),
        (model_config("gpt2", add_cross_attention=True), "tiny-gpt2 has add_cross_attention"),
    ],
)
def test_a_model_it_cannot_train_is_refused_in_one_line(config: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError, match=expected) as caught:
        read_skeleton(plan_file(config, WHOLE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "tp", "seq_len", "expected"),
    [
        (model_config("llama"), 8, 16, "attention heads 4, which tp 8 does not divide; give a divisor of 4"),
        (model_config("llama"), 4, 16, "key-value heads 2, which tp 4 does not divide"),
        (model_config("gpt2", n_inner=66), 4, 16, "feed-forward width 66, which tp 4 does not divide"),
        (model_config("gpt2"), 2, 15, "seq_len 15 divisible by tp 2"),
    ],
)
def test_a_degree_that_does_not_divide_is_refused(
    config: dict[str, object], tp: int, seq_len: int, expected: str
) -> None:
    file = plan_file(config, plan((layers(2),), tp=tp), seq_len=seq_len)
    with pytest.raises(SpecError, match=expected):
        check_tensor_parallel(file, read_skeleton(file))


def test_a_sequence_of_any_length_is_taken_without_sequence_parallelism() -> None:
    file = plan_file(model_config("gpt2"), plan((layers(2),), tp=2, sequence_parallel=False), seq_len=15)
    check_tensor_parallel(file, read_skeleton(file))
