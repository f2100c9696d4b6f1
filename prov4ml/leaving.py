"""The end of a run in its training process: at most ``exit_timeout`` seconds in all.

Delivered: the collector has acked everything, the journal goes; mostly it has written the
documents, too.  Not delivered: what is not acked is copied into ``<run>/undelivered/<producer>/``,
and the line that completes it is printed; where the disk does not take the copy, the journal stays
in the spool.  Without a collector that is the normal way, and a run of one process completes
itself.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prov4ml import spool, wire
from prov4ml.talk import say

if TYPE_CHECKING:
    from prov4ml.run import Run

__all__ = ["leave"]


def leave(run: Run, deadline: float) -> None:
    """Deliver what is left, or put it where ``prov4ml collect`` finds it."""
    sender, journal = run._sender, run._journal
    alone = run.settings.address == "none"
    delivered = False
    command = f"prov4ml collect {run.directory}"
    if not alone:
        told = sender.finish(0.8 * (deadline - time.monotonic()))
        delivered = sender.complete()
    if delivered:
        sender.stop(min(1.0, deadline - time.monotonic()))
        sender.release()
        journal.close(remove=True)
        if sender.closed is not None and sender.closed.last:
            _report(run, sender.closed)
        elif not told:
            say(
                logging.WARNING,
                f"{run.name}: every event is kept, but the documents are not written yet; when "
                f"the collector does not come to it: {command}",
            )
        return
    sender.stop(min(1.0, 0.1 * run.settings.exit_timeout))
    copied = _copy_in_time(run, deadline)
    if copied:
        journal.close(remove=True)
    else:
        journal.close(remove=False)
    if alone and run._where.world_size == 1 and copied:
        _collect(run, deadline, command)
    elif alone:
        say(
            logging.INFO,
            f"{run.name}: kept without a collector; when all ranks are over: {command}",
        )
    else:
        why = sender.refused or sender.doubt or "the collector did not answer in time"
        lost = f"{journal.lost:,} events were lost before" if journal.lost else "nothing is lost"
        say(logging.WARNING, f"{run.name}: {why}; {lost}, complete it with: {command}")


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


def _copy_in_time(run: Run, deadline: float) -> bool:
    """Copy what is not delivered; False when it stays in the spool.

    On a thread of its own where there can be one (not while the interpreter ends, from Python
    3.12 on): nobody knows how long the disk of the run directory takes, or whether it answers.
    """
    done: list[bool] = []
    thread = threading.Thread(
        target=lambda: done.append(_copy_undelivered(run, deadline)), daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        return _copy_undelivered(run, deadline)
    thread.join(max(0.1, deadline - time.monotonic()))
    if not done:
        _stays(run, "no time left to copy it")
    return done == [True]


def _copy_undelivered(run: Run, deadline: float) -> bool:
    """Copy every segment of our run's producers that this process answers for.

    A producer's folder gets its name when it is whole: a collector may be looking at it.
    """
    folder = run.directory / "undelivered"
    half: Path | None = None
    try:
        for producer in [run._journal.who.producer, *run._sender.children()]:
            paths = spool.segments(run._places, run.id, producer)
            half = beside = folder / f"{producer.hex()}.new"
            if paths:
                beside.mkdir(parents=True, exist_ok=True)
            for path in paths:
                if time.monotonic() > deadline:
                    raise TimeoutError("no time left to copy it")
                shutil.copyfile(path, beside / path.name)
            if paths:
                beside.rename(folder / producer.hex())
    except OSError as error:
        if half is not None:  # a full disk needs its room
            shutil.rmtree(half, ignore_errors=True)
        _stays(run, str(error))
        return False
    return True


def _stays(run: Run, why: str) -> None:
    say(logging.WARNING, f"{run.name}: the journal stays in the spool ({why}): prov4ml recover")


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
