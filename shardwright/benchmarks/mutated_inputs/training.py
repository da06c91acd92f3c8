"""Good inputs of the commands that train and export: weights, adapters, a tokenizer, conversations and the folder of a run."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from .kinds import Input
from .outcomes import run

_PLANNED = ("plan", "weights/config.json", "--cluster", "h100-sxm:1", "--seq-len", "32", "--global-batch", "2", "--precision", "fp32",
            "--trainable", "lora:r=2,targets=attention", "--lengths", "uniform:8..32", "--out", "train.json")  # fmt: skip
_RUN = ("run", "train.json", "--out", "out", "--init-from", "weights")
_TEXT = ("--data", "text.txt")
_CHAT = ("--data-format", "chat", "--data", "chat.jsonl", "--tokenizer", "tokenizer")
_CHECKPOINT = "run/checkpoints/step-000001"
_EXPORTS = (("export-weights", "{folder}", "--to", "out"), ("export-adapters", "{folder}", "--to", "out"))
_AGAIN = ("run", "train.json", "--out", "{folder}", "--init-from", "weights", *_CHAT, "--steps", "2")
_SHARDS = "48KB"
_CONFIG = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "vocab_size": 320, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
_TEMPLATE = "{% for message in messages %}<user>{{ message.content }}<end>{% endfor %}{% if add_generation_prompt %}<user>{% endif %}"
_TOOLS = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
_LINES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "3 times 3?"}, {"role": "assistant", "content": "It is 9."}]},
    {"messages": [{"role": "user", "content": "add"}, _TOOLS, {"role": "assistant", "content": "4"}], "tools": [{"name": "add"}]},
    {"prompt": "3 times 4?", "response": "It is 12."},
    {"prompt": [{"role": "user", "content": "and 5?"}], "completion": [{"role": "assistant", "content": "15"}]},
)  # fmt: skip
OPTIONS = (
    "--steps", "--until-tokens", "--until-hours", "--data", "--data-format", "--token-dtype", "--data-column", "--tokenizer", "--learning-rate",
    "--schedule", "--decay-steps", "--warmup-steps", "--clip-norm", "--seed", "--checkpoint-every", "--every-minutes", "--checkpoint", "--keep",
    "--eval-data", "--eval-every", "--eval-batches", "--resume", "--resume-from", "--init-from", "--adapters-from", "--lora-alpha", "--compile",
    "--offload-folder", "--ranks", "--restarts", "--timeout", "--tensorboard", "--to", "--step", "--dtype", "--max-shard-size", "--base-model",
)  # fmt: skip
WORDS = (
    "weights", "adapters", "tokenizer", "run", _CHECKPOINT, "chat.jsonl", "text.txt", "text.txt:0.5", "chat.jsonl:2", "text.txt:-1", "text.txt:nan",
    "a:b", ":1", "chat", "text", "hf", "tokens", "wsd", "async", "sync", "uint16", "2k", "5GB", "-1GB", "infGB", "bf16", "fp16", "run/x", "/dev/full",
)  # fmt: skip

INPUTS = (
    *(Input(f"weights/{name}", (("run", "train.json", "--out", "out", *_TEXT, "--init-from", "{folder}"),))
      for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00004.safetensors")),
    *(Input(f"adapters/{name}", ((*_RUN, *_TEXT, "--adapters-from", "{folder}"),)) for name in ("adapter_config.json", "adapter_model.safetensors")),
    Input("chat.jsonl", ((*_RUN, "--data-format", "chat", "--data", "{}", "--tokenizer", "tokenizer"),
                         (*_RUN, *_CHAT, "--eval-data", "{}", "--eval-every", "1"))),
    *(Input(f"tokenizer/{name}", ((*_RUN, "--data-format", "chat", "--data", "chat.jsonl", "--tokenizer", "{folder}"),
                                  (*_RUN, *_TEXT, "--tokenizer", "{folder}")))
      for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")),
    Input(f"{_CHECKPOINT}/checkpoint.json", (*_EXPORTS, _AGAIN)),
    Input("run/plan.json", _EXPORTS),
    Input("run/identity.json", (_AGAIN,)),
    Input("run options", ((*_RUN, *_TEXT), (*_RUN, *_CHAT), ("export-weights", "run", "--to", "out"), ("export-adapters", "run", "--to", "out"))),
)  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Write the good inputs into `folder`, among them a run of one step, which is trained here."""
    from transformers import AutoConfig, AutoModelForCausalLM

    built: Any = AutoModelForCausalLM
    built.from_config(AutoConfig.for_model("qwen3", **_CONFIG)).save_pretrained(
        folder / "weights", max_shard_size=_SHARDS
    )
    _write_tokenizer(folder / "tokenizer")
    (folder / "text.txt").write_text("".join(f"{number} times {number} is {number**2}. " for number in range(40)))
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(line) for line in _LINES * 4) + "\n")
    with contextlib.chdir(folder):
        for command in (
            _PLANNED,
            ("run", "train.json", "--out", "run", "--init-from", "weights", *_CHAT, "--steps", "1"),
            ("export-adapters", "run", "--to", "adapters"),
        ):
            outcome = run(command)
            if outcome.code:
                raise SystemExit(f"{command[0]}: {outcome.stderr}{outcome.error or ''}")


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    own = Tokenizer(models.BPE(vocab=letters, merges=[]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own.add_special_tokens(["<end>", "<user>"])
    build: Any = PreTrainedTokenizerFast
    made = build(tokenizer_object=own, eos_token="<end>")
    made.chat_template = _TEMPLATE
    made.save_pretrained(folder)


@contextlib.contextmanager
def checks_alone() -> Iterator[None]:
    """Let `run` and `profile` check all that they check before they start ranks, and end there."""

    def end(*_given: object, **_named: object) -> NoReturn:
        raise SystemExit(0)

    with (
        mock.patch("shardwright.executor.run.launching.run_workers", end),
        mock.patch("shardwright.profiler.run_profile", end),
    ):
        yield
