"""What belongs beside a run's weights, kept in its folder for an export: the tokenizer and the generation config."""

import shutil

from shardwright.base import SpecError
from shardwright.executor import RunOptions
from shardwright.executor.text import Tokenizer

from .run_folder import GENERATION_CONFIG, RunFolder


def keep_beside(folder: RunFolder, options: RunOptions, vocab_size: int) -> None:
    """Copy the tokenizer that `options` name, and the generation config of the weights that the run starts from.

    Raises:
        SpecError: the tokenizer is not valid, or the folder cannot be written.
    """
    try:
        if options.tokenizer is not None:
            Tokenizer(options.tokenizer, vocab_size).save(folder.tokenizer)
        source = options.init_from and options.init_from / GENERATION_CONFIG
        if source and source.is_file():
            shutil.copyfile(source, folder.generation)
    except OSError as error:
        raise SpecError(f"{folder.path}: cannot be written ({error.strerror or error})") from None
