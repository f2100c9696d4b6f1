"""The end of a run in its training process: at most ``exit_timeout`` seconds in all.

Delivered: the collector said so, the journal goes.  Not delivered: what is not acked is copied
into ``<run>/undelivered/<producer>/``, and the line that completes it is printed.  Without a
collector that is the normal way, and a run of one process completes itself.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
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
    if not alone:
        delivered = sender.finish(0.8 * (deadline - time.monotonic())) and sender.complete()
    if delivered:
        sender.stop(min(1.0, deadline - time.monotonic()))
        sender.release()
        journal.close(remove=True)
        if sender.closed is not None and sender.closed.last:
            _report(run, sender.closed)
        return
    sender.stop(min(1.0, 0.1 * run.settings.exit_timeout))
    copied = _copy_undelivered(run)
    if copied:
        journal.close(remove=True)
    else:
        journal.close(remove=False)
    command = f"prov4ml collect {run.directory}"
    if alone and run._where.world_size == 1 and copied:
        _collect(run, deadline, command)
    elif alone:
        say(
            logging.INFO,
            f"{run.name}: kept without a collector; when all ranks are over: {command}",
        )
    else:
        why = sender.refused or "the collector did not answer in time"
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


def _copy_undelivered(run: Run) -> bool:
    """Copy every segment of our run's producers that this process answers for."""
    try:
        for producer in [run._journal.who.producer, *run._sender.children()]:
            target = run.directory / "undelivered" / producer.hex()
            paths = spool.segments(run._places, run.id, producer)
            if paths:
                target.mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.copyfile(path, target / path.name)
    except OSError as error:
        say(
            logging.WARNING,
            f"{run.name}: the journal stays in the spool ({error}): prov4ml recover",
        )
        return False
    return True


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
