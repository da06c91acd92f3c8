"""The command line: parse, call one library function, print. Start-up imports nothing heavy; each command its own."""

import sys

import click
import typer

from shardwright.costmodel.errors import InfeasibleError, SpecError

from . import compare, plan, run, simulate, validate

__all__ = ["app", "main"]

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INFEASIBLE, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.",
)
for command in (plan.plan, plan.explain, compare.compare, simulate.simulate, run.run, validate.validate):
    app.command()(command)


def main() -> None:
    """Run a command. A user's mistake is one line on stderr and exit code 2, a plan that cannot fit exit code 3."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as shown:
        print(shown.format_message())
        code = EXIT_USER_ERROR
    except click.ClickException as error:
        code = _say(error.format_message(), EXIT_USER_ERROR)
    except SpecError as error:
        code = _say(str(error), EXIT_USER_ERROR)
    except InfeasibleError as error:
        code = _say(str(error), EXIT_INFEASIBLE)
    except run.RunFailedError as error:
        code = _say(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        code = _say("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe (head, say) had enough
        sys.stderr.close()
        code = EXIT_FAILED
    sys.exit(code or 0)


def _say(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
