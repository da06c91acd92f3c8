"""The folder that an export writes: outside of the run, new, and there only when it is whole."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from shardwright.base import RunFailedError, SpecError, partial_folder
from shardwright.executor.training import sync


def check_place(to: Path, run: Path) -> None:
    """Check that an export of the run in the folder `run` may become the folder `to`.

    Raises:
        SpecError: `to` is a file, is not empty, or lies in the run's folder, where the run itself writes and deletes.
    """
    if to.is_dir() and any(to.iterdir()):
        raise SpecError(f"{to}: is a folder that is not empty; give a new folder with --to")
    if to.exists() and not to.is_dir():
        raise SpecError(f"{to}: is a file; give a new folder with --to")
    if to.resolve().is_relative_to(run.resolve()):
        raise SpecError(
            f"{to}: lies in the folder of the run, which belongs to it alone; give a folder outside with --to"
        )


@contextlib.contextmanager
def whole_folder(to: Path) -> Iterator[Path]:
    """Yield a folder beside `to` that takes its place at the end of the block, and goes if the block fails. What a kill has left of an
    earlier export to the same place goes first.

    Raises:
        SpecError: no folder can be made there.
        RunFailedError: something in it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(partial_folder(to))
        except OSError as error:
            raise SpecError(f"{to}: cannot be written ({error.strerror or error}); give another --to") from None
        try:
            yield partial
            sync([*partial.iterdir(), partial])
            partial.chmod(0o755)  # mkdtemp's is for its user alone
            partial.rename(to.absolute())
            sync([to.absolute().parent])
        except (OSError, SafetensorError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise RunFailedError(f"{to}: cannot be written ({reason}); nothing is left of it") from error
