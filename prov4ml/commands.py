"""Commands that do something: run, collector, collect, recover, replay."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from prov4ml import config, recovery, service, spool, wire
from prov4ml import replay as replaying
from prov4ml.collector import Collector, Progress
from prov4ml.errors import FormatError, SinkError, UsageError
from prov4ml.talk import log

__all__ = ["account", "collect", "collector", "recover", "replay", "run"]


def run(program: list[str]) -> int:
    """Run a program with a collector beside it; ends with the program's exit code."""
    command = program[1:] if program[:1] == ["--"] else program
    if not command:
        raise UsageError("no program given: prov4ml run -- python train.py")
    with tempfile.TemporaryDirectory(prefix="prov4ml-run-") as folder:
        os.chmod(folder, 0o700)
        line = _Line(sys.stderr)
        served = Collector(f"ipc://{folder}/collector.sock", progress=line.show)
        environment = {
            **os.environ,
            "PROV4ML_COLLECTOR": served.address,
            "PROV4ML_JOB": os.environ.get("PROV4ML_JOB") or secrets.token_hex(8),
        }
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            print(f"prov4ml: cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
        served.waited[child.pid] = None
        thread = threading.Thread(target=served.serve, name="prov4ml-collector", daemon=True)
        with _passing_on(child):
            thread.start()
            code = child.wait()
        served.waited[child.pid] = code
        served.once_idle(environment["PROV4ML_JOB"])
        thread.join(30.0)
        line.clear()
        for directory in served.open if thread.is_alive() else ():
            log.warning("%s is not complete: prov4ml collect %s", directory.name, directory)
        _told_last(served)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM goes on to the program; SIGINT reaches it through the terminal anyway."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    def ignore(number: int, _: object) -> None:
        """The program decides what an interrupt means."""

    before = [signal.signal(signal.SIGTERM, forward), signal.signal(signal.SIGINT, ignore)]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


class _Line:
    """A progress line: rewritten in place on a terminal, every ten seconds elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = self._stream.isatty()
        self._shown = 0.0
        self._width = 0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if not progress.runs or (not self._terminal and now - self._shown < 10.0):
            return
        self._shown = now
        last = " · ".join(f"{name} {value:.4g}" for name, value in progress.last)
        text = (
            f"{', '.join(progress.runs)}: {progress.events:,} events, "
            f"{progress.alive} ranks alive" + (f" · {last}" if last else "")
        )
        if progress.malformed:
            text += f" · {progress.malformed:,} malformed messages"
        if self._terminal:
            text = text[: os.get_terminal_size(self._stream.fileno()).columns - 1]
            print(f"\r{text:<{self._width}}", end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(f"prov4ml: {text}", file=self._stream, flush=True)

    def clear(self) -> None:
        if self._terminal and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=self._stream, flush=True)


def collector(bind: str | None, once: bool, automatic: bool, file: str | None) -> int:
    """Serve until SIGTERM or SIGINT, or until the kind's own end."""
    lock: int | None = None
    options: dict[str, dict[str, object]] = {}
    if automatic:
        found = service.find(os.environ)
        lock = service.inherit(found)
        service.close_inherited(lock)
        if lock is None:
            return 0  # another one serves
        address = found.address
        found.socket.unlink(missing_ok=True)
    else:
        environment = {**os.environ, **({"PROV4ML_CONFIG": file} if file else {})}
        settings = config.load({}, environment, Path.cwd())
        address = bind or settings.address
        options = settings.options if file else {}
        if address in ("auto", "none"):
            raise UsageError("nowhere to listen: prov4ml collector --bind tcp://127.0.0.1:5557")
        address = config.check_address(address, bind=True)
    served = Collector(address, automatic=automatic, once=once, options=options)
    signal.signal(signal.SIGTERM, lambda *_: served.terminate())
    signal.signal(signal.SIGINT, lambda *_: served.stop.set())
    if not automatic:
        print(f"prov4ml: listening at {served.address}", file=sys.stderr, flush=True)
        print(f"PROV4ML_COLLECTOR={served.address}", flush=True)
    served.serve()
    if not automatic:
        _told_last(served)
    if lock is not None:
        os.close(lock)
    return 0


def _told_last(served: Collector) -> None:
    """What no client has heard."""
    for directory, closed in served.untold:
        log.info("%s", account(directory, closed))
    if served.malformed:
        log.warning("%d malformed messages were dropped in all", served.malformed)


def account(directory: Path, closed: wire.Closed) -> str:
    """The line that ends a run."""
    rejected = f", {closed.rejected:,} rejected" if closed.rejected else ""
    failed = "".join(f"; {text}" for text in closed.failures)
    return (
        f"{directory.name}: {closed.status}; {closed.sent:,} events sent, "
        f"{closed.received:,} received, {closed.lost:,} lost{rejected}; {directory}{failed}"
    )


def collect(directories: list[Path]) -> int:
    """Complete runs from journals left behind."""
    failed = 0
    for directory in directories:
        try:
            closed = recovery.collect(directory.absolute(), spool.roots(os.environ))
        except (UsageError, FormatError, SinkError) as error:
            print(f"prov4ml: {error}", file=sys.stderr)
            failed = 1
        except OSError as error:
            print(f"prov4ml: {directory}: {error}", file=sys.stderr)
            failed = 1
        else:
            failed |= bool(closed.failures)
            print(account(directory.absolute(), closed))
    return failed


def recover() -> int:
    """``collect`` for every run in this user's spool on this host."""
    failed, seen = 0, 0
    for found in recovery.recover(spool.roots(os.environ)):
        seen += 1
        if found.closed is not None:
            failed |= bool(found.closed.failures)
            print(account(found.directory, found.closed))
        elif found.alone:
            print(f"{found.directory}: {found.why}: left alone")
        else:
            failed = 1
            print(f"{found.directory}: {found.why}")
    if not seen:
        print("nothing to recover")
    return failed


def replay(directory: Path, names: list[str]) -> int:
    """Write outputs again from the event log."""
    for path in replaying.write(directory.absolute(), names):
        print(path)
    return 0
