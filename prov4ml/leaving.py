"""The end of runs in their training process: at most ``exit_timeout`` seconds in all.

Delivered: the collector said so, the journal goes.  Acked, but the documents are not written
yet: the collector does that alone.  Not acked: copied into ``<run>/undelivered/<producer>/``, and
the line that completes it is printed; where even that cannot be done in time, the journal stays
in the spool.  Without a collector the copy is the normal way, and a run of one process completes
itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prov4ml import spool, wire
from prov4ml.segment import NEW
from prov4ml.talk import say

if TYPE_CHECKING:
    from prov4ml.run import Run

__all__ = ["leave"]

_PIECE: Final = 1 << 20  # bytes that are copied between two looks at the clock


def leave(runs: Sequence[Run], begin: float) -> None:
    """Deliver what is left, or put it where ``prov4ml collect`` finds it.

    All at once, so that several take no longer than one.  ``begin``: when the end began
    (monotonic s); the last event of each is in its journal.  What touches a disk is done by the
    senders' threads, so that a slow one is not waited for beyond the bound.
    """
    for run in runs:
        run._sender.ending()
    parting: list[_Parting] = []
    for run in runs:
        within = run.settings.exit_timeout
        if run.settings.address != "none":
            run._sender.finish(begin + 0.8 * within)
        parting.append(_Parting(run, begin + within))
        run._sender.part(parting[-1])
    for part in parting:
        part.run._sender.join(part.deadline - time.monotonic())
        part.over = True
        if part.copied is None:
            _delivered(part.run)
        else:
            _undelivered(part)


def _delivered(run: Run) -> None:
    closed = run._sender.closed
    if closed is None:
        say(
            logging.WARNING,
            f"{run.name}: the collector has all of it, but not written the documents yet; they "
            f"come into {run.directory}, and should it end before: prov4ml collect {run.directory}",
        )
    elif closed.last:
        _report(run, closed)


def _undelivered(part: _Parting) -> None:
    run, sender = part.run, part.run._sender
    alone = run.settings.address == "none"
    command = f"prov4ml collect {run.directory}"
    if not part.copied:
        where = spool.folder(run._places, run.id)
        say(
            logging.WARNING,
            f"{run.name}: {part.unacked:,} events are not delivered and stay in the spool, {where} "
            f"({part.why}); complete it with: prov4ml recover",
        )
    elif alone and run._where.world_size == 1:
        _collect(run, part.deadline, command)
    elif alone:
        say(
            logging.INFO,
            f"{run.name}: kept without a collector; when all ranks are over: {command}",
        )
    else:
        why = sender.refused or sender.doubt or "the collector did not answer in time"
        before = run._journal.lost
        lost = f"{before:,} events were lost before" if before else "nothing is lost"
        say(
            logging.WARNING,
            f"{run.name}: {why}; {part.unacked:,} events lie in {run.directory / 'undelivered'}, "
            f"{lost}, complete it with: {command}",
        )


def _report(run: Run, closed: wire.Closed) -> None:
    level = logging.INFO if closed.status == "finished" and not closed.lost else logging.WARNING
    rejected = f", {closed.rejected:,} rejected" if closed.rejected else ""
    say(
        level,
        f"{run.name}: {closed.status}; {closed.sent:,} events sent, {closed.received:,} received, "
        f"{closed.lost:,} lost{rejected}; {run.directory}",
    )
    for failure in closed.failures:
        say(logging.WARNING, f"{run.name}: {failure}")


class _Parting:
    """The last thing that a sender's thread does: see to the journal, as far as it is not acked.

    ``copied``: None when all was acked, else whether every segment of the producers that this
    process answers for is in its place, synced; ``why`` says what was in the way.
    """

    def __init__(self, run: Run, deadline: float) -> None:
        self.run = run
        self.deadline = deadline
        self.unacked = run._sender.unacked()
        self.copied: bool | None = None if run._sender.complete() else False
        self.over = False  # nobody waits any more
        self.why = f"{run.directory} did not take them in time"

    def __call__(self) -> None:
        run = self.run
        if run._sender.complete():  # perhaps at the last moment
            self.copied = None
            run._sender.release()
        else:
            try:
                for producer in [run._journal.who.producer, *run._sender.children()]:
                    self._copy(producer)
                self.copied = not self.over
            except OSError as error:
                self.why = str(error)
        run._journal.close(remove=self.copied is not False)
        if self.copied is None and run._sender.closed is not None:
            # The collector sees to the rest, and may be on another host.
            spool.forget(run._places, run.id, {run._journal.who.producer})

    def _copy(self, producer: bytes) -> None:
        run = self.run
        paths = spool.segments(run._places, run.id, producer)
        if not paths:
            return
        who = run._journal.who
        target = run.directory / "undelivered" / producer.hex()
        made = target.with_name(f"{target.name}.{who.pid}.{who.pid_start}{NEW}")
        try:
            made.mkdir(parents=True, exist_ok=True)
            for path in paths:
                self._copy_file(path, made / path.name)
            os.rename(made, target)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            with contextlib.suppress(OSError):
                made.parent.rmdir()
            raise

    def _copy_file(self, source: Path, target: Path) -> None:
        with open(source, "rb") as whole, open(target, "wb") as copy:
            while piece := whole.read(_PIECE):
                if self.over or time.monotonic() > self.deadline:
                    raise TimeoutError(self.why)
                copy.write(piece)
            copy.flush()
            os.fsync(copy.fileno())


def _collect(run: Run, deadline: float, command: str) -> None:
    """Run ``prov4ml collect`` in the time that is left."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "prov4ml", "collect", str(run.directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(0.5, deadline - time.monotonic()),
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        say(
            logging.WARNING,
            f"{run.name}: no time left for the documents; complete it with: {command}",
        )
        return
    for line in (done.stdout + done.stderr).splitlines():
        say(logging.INFO if done.returncode == 0 else logging.WARNING, line)
