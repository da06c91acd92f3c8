"""Whether damaged inputs are answered in one clear line: python -m shardwright.benchmarks.mutated_inputs [--cases 5000] [--first 0].

Every second case gives a command one of its options in turn, taken from the parser, and others at random. The others take a file that a
command reads, or its options, change one to three places at random, and run the command in this process. Files of planning: a plan, a configuration of a model, a cluster, a profile, a measurement, a table. Of training: the
configuration, index and shards of weights, adapters, conversations, a tokenizer, and the folder of a run. Of runs in phases: what a user writes, and what `plan` makes of it.
`run` and `profile` end where they would start ranks. A case fails where the command raises an error of its own, takes longer than a minute of a processor, prints a line of more than 400
characters or a control character to stderr, writes JSON that is none, or shows an MFU above 100%. `--case N` repeats one case and
prints what the command was given and what it said.
"""

from .cases import INPUTS, case, check, write_inputs
from .every_option import BASES, options_of_commands, pairs
from .outcomes import EXIT_CODES, Outcome, fault, run

__all__ = [
    "BASES",
    "EXIT_CODES",
    "INPUTS",
    "Outcome",
    "case",
    "check",
    "fault",
    "options_of_commands",
    "pairs",
    "run",
    "write_inputs",
]
