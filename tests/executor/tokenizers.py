"""A small byte-level tokenizer, trained on a page of text, in a folder as transformers saves it."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

IDS = 300
VOCABULARY = 307  # of the models that are trained with it
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MARKED = TEMPLATE.replace(
    "{{ message.content }}<|stop|>\n",
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|stop|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message.content }}<|stop|>\n{% endif %}",
)


def tokenizer_folder(folder: Path, *, template: str | None = TEMPLATE, end: str | None = "<end>") -> Path:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    page = "".join(f"{number} times {number} is {number * number}. " for number in range(400))
    trainer = trainers.BpeTrainer(
        vocab_size=IDS,
        special_tokens=["<end>", "<|start|>", "<|stop|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([page], trainer)
    build: Any = PreTrainedTokenizerFast
    own = build(tokenizer_object=made, eos_token=end)
    own.chat_template = template
    own.save_pretrained(folder)
    return folder
