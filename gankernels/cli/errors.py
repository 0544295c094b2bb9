"""What a user sees when something goes wrong: one paragraph, and an exit code that says whose turn it is."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["DONE", "FAILURE", "WRONG_USE", "Terminated", "WrongUse", "arguments_at_fault", "describe", "sigterm_raises"]

DONE, FAILURE, WRONG_USE = 0, 1, 2
_LESS_MEMORY = {
    "train": "a smaller batch needs less: --batch",
    "generate": "a smaller batch needs less: --batch",
    "simulate": "fewer cells need less: --grid",
    "validate": "fewer showers need less: --max-events",
}


class WrongUse(Exception):
    """The command line cannot be followed as it is; exit code 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came; what is half done is taken back as after Ctrl-C."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise Terminated at the first SIGTERM; the second ends the process at once.

    Whoever has set a handler of their own keeps it, and outside the main thread nothing can be set.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    def again(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Terminated):
            before(lost)
            return
        # It came inside a destructor, where Python drops what is raised: once more, a moment later.
        signal.signal(signal.SIGTERM, handle)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

    before, sys.unraisablehook = sys.unraisablehook, again
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.unraisablehook = before


@contextmanager
def arguments_at_fault() -> Iterator[None]:
    """While arguments are being checked, a refused value is wrong use and no failure."""
    from gankernels.calo.guard import ShowerFileError

    try:
        yield
    except ShowerFileError:
        raise
    except (ValueError, FileExistsError) as error:
        raise WrongUse(_message(error)) from error


def describe(command: str, error: BaseException) -> tuple[str, int]:
    """The paragraph and the exit code for an error of `gankernels COMMAND`."""
    if isinstance(error, KeyboardInterrupt):
        what = "ended by SIGTERM" if isinstance(error, Terminated) else "interrupted"
        return f"{command}: {what}; nothing was left half written under its final name", FAILURE
    text = f"{command}: {_message(error).removeprefix(command.split()[-1] + ': ')}"
    code = WRONG_USE if isinstance(error, WrongUse) else FAILURE
    if isinstance(error, MemoryError):
        advice = _LESS_MEMORY.get(command.split()[-1])
        text = f"{command}: memory ran out ({_message(error)})" + (f"; {advice}" if advice else "")
    elif not isinstance(error, WrongUse | ValueError | OSError | RuntimeError | ImportError):
        text = (
            f"{command}: unexpected {type(error).__name__}: {_message(error)}. Run it again with --debug and report it"
        )
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False), code


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
