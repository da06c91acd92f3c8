"""The command line: parse, call one library function, print. Start-up imports nothing heavy; each command imports what it needs."""

import io
import logging
import os
import sys
import warnings
from itertools import pairwise
from typing import Annotated

import typer

from shardwright import __version__

from . import ask, compare, doctor, explain, export, frameworks, launch, plan, profile, run, simulate, validate
from .options import EXIT_INFEASIBLE, epilog

__all__ = ["app", "main"]

_NOISY_LOGGERS = ("torchao", "torch.utils._pytree")
"""Loggers whose warnings say nothing of a command: transformers imports torchao where it is installed, which warns of kernels for other
releases of torch, and torch then warns of its classes."""
EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"shardwright {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (plan.plan, explain.explain, compare.compare, simulate.simulate, run.run):
    app.command()(command)
app.command()(launch.launch)
app.command()(frameworks.export)
app.command("import")(frameworks.import_file)
app.command()(frameworks.diagnose)
app.command("export-weights")(export.export_weights)
app.command("export-adapters")(export.export_adapters)
app.command()(validate.validate)
app.command()(doctor.doctor)
app.add_typer(ask.app, name="ask")
app.add_typer(profile.app, name="profile", epilog=epilog("profile"))
for group, words in ((app, ""), (ask.app, "ask "), (profile.app, "profile ")):
    for registered in group.registered_commands:
        registered.epilog = epilog(words + (registered.name or str(getattr(registered.callback, "__name__", ""))))

# typer carries a click of its own, or uses the one installed; the base of its errors is public in neither
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> None:
    """Run a command; without one print the help. A user's mistake gives one line on stderr and exit code 2. A job that
    cannot fit gives exit code 3. Training or measuring that stopped early gives exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a file in ASCII has no box lines and no µ
            stream.reconfigure(errors="replace")
    warnings.formatwarning = _one_line
    for package in _NOISY_LOGGERS:
        logging.getLogger(package).setLevel(logging.ERROR)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # this typer reports Ctrl-C so
            _say("interrupted", code)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `ask` alone: the message is its help
            print(str(error.format_message()), file=sys.stderr)  # type: ignore[attr-defined] # see _UsageError
            code = EXIT_USER_ERROR
        else:
            code = _say(_usage(error), EXIT_USER_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        code = _say("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of the pipe, such as head, has closed it
        sys.stderr.close()
        code = EXIT_FAILED
    except OSError as error:  # without a file's name it is standard output, for example on a full disk
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 # Python flushes it once more at exit
        where = error.filename or "standard output"
        code = _say(f"{where}: cannot be read or written ({error.strerror or error})", EXIT_USER_ERROR)
    except Exception as error:
        code = _say(str(error), _exit_code(error))
    sys.exit(code or 0)


def _exit_code(error: Exception) -> int:
    """The exit code of an error with a message for the user. Any other error is a bug of ours, and is raised again."""
    from shardwright.base import InfeasibleError, RanksLostError, RunFailedError, SpecError

    codes: dict[type[Exception], int] = {
        SpecError: EXIT_USER_ERROR,
        InfeasibleError: EXIT_INFEASIBLE,
        RunFailedError: EXIT_FAILED,
        RanksLostError: EXIT_FAILED,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code
    raise error


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning for a user: the message, without the place in the code."""
    return f"warning: {' '.join(str(message).split())}\n"


def _say(message: str, code: int) -> int:
    from shardwright.base import one_line

    print(one_line(f"error: {message}"), file=sys.stderr)
    return code


def _usage(error: Exception) -> str:
    """The message of a wrong command line. click names the option and what is allowed; this adds what was given."""
    message = str(error.format_message())  # type: ignore[attr-defined] # see _UsageError
    option = getattr(getattr(error, "param", None), "opts", [""])[0]
    given = [value for name, value in pairwise(sys.argv) if name == option]
    return f"{message} (given: {given[-1]})" if given and f"'{given[-1]}'" not in message else message
