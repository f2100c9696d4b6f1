"""What happens to open runs when the process forks or ends.

Nothing of the user's is replaced: no signal handler, no ``sys.excepthook``.  An exception that
ends the script is known from ``sys.last_value``; a non-zero exit code from ``sys.exit``, which
is wrapped for as long as a run is open and only takes a note.  (``raise SystemExit(3)`` outside
of a ``with`` block is seen by nobody in the process.)
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from prov4ml.leaving import leave

if TYPE_CHECKING:
    from prov4ml.run import Run
    from prov4ml.sender import Sender

__all__ = ["watch"]

_runs: weakref.WeakSet[Run] = weakref.WeakSet()
_exit_note: tuple[int, dict[int, int | None]] | None = None  # code, and how far each run had got
_last_value: BaseException | None = None
_installed = False
_held: dict[int, list[Sender]] = {}  # by the thread that forks
_HOLD: Final = 1.0  # s that a fork waits for a sender at most


def watch(run: Run) -> None:
    """See to a run's end, and to its forks."""
    global _installed, _last_value
    _runs.add(run)
    if not _installed:
        _installed = True
        _last_value = getattr(sys, "last_value", None)
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child
        )
        atexit.register(_at_exit)
        _note_exit()


def _note_exit() -> None:
    """Wrap ``sys.exit`` so that the code it was given can be told."""
    plain = sys.exit

    def noting_exit(status: Any = None, /) -> Any:
        global _exit_note
        code = status if isinstance(status, int) else (0 if status is None else 1)
        if threading.current_thread() is not threading.main_thread():
            pass  # it ends that thread only
        elif code:
            _exit_note = (int(code), {id(run): _progress(run) for run in _runs if run.active})
        else:
            _exit_note = None
        return plain(status)

    noting_exit.__doc__ = plain.__doc__
    noting_exit.__name__ = "exit"
    sys.exit = noting_exit


def _progress(run: Run) -> int | None:
    """How many events the run has; None while its sender still logs what it came from."""
    return run._journal.sent if run._sender.recorded(1.0) else None


def _before_fork() -> None:
    """Fork while no sender thread is in the middle of an import: once, some milliseconds."""
    senders = [run._sender for run in list(_runs) if run.active]
    _held[threading.get_ident()] = [s for s in senders if s.hold(_HOLD)]


def _after_fork() -> None:
    for sender in _held.pop(threading.get_ident(), []):
        sender.let_go()


def _in_child() -> None:
    _held.clear()
    for run in list(_runs):
        if run._ended is None:
            run.after_fork()


def _at_exit() -> None:
    """End what the user left open, with the truth about how, all of it in one go."""
    error = getattr(sys, "last_value", None)
    if error is _last_value:
        error = None
    begin = time.monotonic()
    runs = [run for run in list(_runs) if run.active]
    for run in runs:
        if error is None and _exit_note is not None:
            code, marks = _exit_note
            # A caught SystemExit ended nothing: then the run went on logging.
            if marks.get(id(run), -1) in (None, run._journal.sent):
                run._log_end(begin, status="failed", exit_code=code, exiting=True)
                continue
        run._log_end(begin, error=error, exiting=True)
    leave(runs, begin)
