"""Bytes that runs handed over, stored by content: ``artifacts/<hh>/<sha256>``.

Hashing is done here, on the node's collector, never in the training process; and in a thread of
its own, so that what publishes a run goes on meanwhile.  A copy stays in ``.incoming`` until the
log has safely what became of it: whoever comes after a crash finds it there.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from prov4ml import hashing, process
from prov4ml.errors import no_room
from prov4ml.events import Artifact, Stored
from prov4ml.producer import Producer

__all__ = ["Keeper", "incoming", "keep"]

_AGAIN: Final = 1.0  # s between two tries on a full disk


class Keeper:
    """The thread that stores the bytes of one run.  ``wake`` is called when there are results.

    ``starved``: why it waits, as long as the disk has no room.
    """

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self.directory = directory
        self.starved: OSError | None = None
        self._wake = wake
        self._taken: set[tuple[bytes, int]] = set()
        self._todo: queue.SimpleQueue[tuple[Producer, Artifact] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Stored] = queue.SimpleQueue()
        self._pace = hashing.Pace()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, producer: Producer, artifact: Artifact) -> None:
        """Store these bytes, when it is their turn; once."""
        key = (producer.id, artifact.n)
        if key in self._taken or self._pace.stop:
            return
        self._taken.add(key)
        self._todo.put((producer, artifact))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prov4ml-store", daemon=True)
            self._thread.start()

    def results(self, timeout: float = 0.0) -> Iterator[Stored]:
        """What became of them so far; waits for the first as long as ``timeout`` (s)."""
        try:
            yield self._done.get(timeout > 0, timeout or None)
            while True:
                yield self._done.get_nowait()
        except queue.Empty:
            return

    def hurry(self) -> None:
        """Nobody trains any more, and somebody may wait."""
        self._pace.hurry = True

    def stop(self) -> None:
        """Let go of what is not done, and wait until nothing of it is left behind."""
        self._pace.stop = True
        self._stopped.set()
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join(5.0)

    def _run(self) -> None:
        while (task := self._todo.get()) is not None and not self._pace.stop:
            producer, artifact = task
            try:
                kept = self._keep(producer, artifact)
            except hashing.Stopped:
                return
            except Exception as error:  # the others go on
                reason = f"{type(error).__name__}: {error}"
                kept = Stored(time.time_ns(), producer.id, artifact.n, None, None, None, reason)
            self._done.put(kept)
            self._wake()

    def _keep(self, producer: Producer, artifact: Artifact) -> Stored:
        """Store it, as soon as there is room."""
        while True:
            try:
                kept = keep(self.directory, producer, artifact, self._pace)
            except OSError as error:
                self.starved = error
                if self._stopped.wait(_AGAIN):
                    raise hashing.Stopped from None
            else:
                self.starved = None
                return kept


def incoming(directory: Path, producer: bytes, n: int) -> Path:
    """Where an occurrence's copy lies until it is stored."""
    return directory / "artifacts" / ".incoming" / f"{producer.hex()}-{n}"


def keep(directory: Path, producer: Producer, artifact: Artifact, pace: hashing.Pace) -> Stored:
    """Store what was handed over, or hash what was only referred to.

    The name of the copy came over the wire: only the one that belongs to the occurrence counts.
    Raises ``hashing.Stopped``; ``OSError`` when there is no room, and can be called again.
    """

    def failed(reason: str) -> Stored:
        return Stored(time.time_ns(), producer.id, artifact.n, None, None, None, reason)

    try:
        if artifact.incoming is None:
            return _reference(producer, artifact, pace, failed)
        copy = incoming(directory, producer.id, artifact.n)
        if artifact.incoming != copy.name:
            return failed("the copy has a name that is not its own")
        with hashing.opened(copy, follow=False) as file:
            sha256, size = hashing.sha256(file, pace, ours=True)
        place = directory / "artifacts" / sha256[:2] / sha256
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            _put(copy, place)
        path = place.relative_to(directory).as_posix()
        return Stored(time.time_ns(), producer.id, artifact.n, sha256, size, path)
    except OSError as error:
        if no_room(error):
            raise
        return failed(error.strerror or str(error))
    except (ValueError, UnicodeError) as error:  # a path that came over the wire
        return failed(str(error))


def _put(copy: Path, place: Path) -> None:
    """A second name for the same bytes; a copy where a file system has no links."""
    try:
        os.link(copy, place, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError as error:
        if no_room(error):
            raise
        beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(copy, beside)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)


def _reference(
    producer: Producer,
    artifact: Artifact,
    pace: hashing.Pace,
    failed: Callable[[str], Stored],
) -> Stored:
    """A file that stayed where it is: hashed, if it is still the one that was logged."""
    started = producer.started
    if started is None or started.host != process.hostname() or artifact.location is None:
        return failed("on another host")
    path = _path(artifact.location)
    if path.stat().st_uid != os.getuid() and not os.access(path, os.R_OK):
        return failed("not readable")
    logged = (artifact.size, artifact.mtime)
    with hashing.opened(path) as file:
        if _status(os.fstat(file.fileno())) != logged:
            return failed("changed after it was logged")
        sha256, size = hashing.sha256(file, pace)
        if _status(path.stat()) != logged:
            return failed("changed after it was logged")
    return Stored(time.time_ns(), producer.id, artifact.n, sha256, size, None)


def _status(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _path(location: str) -> Path:
    """A location as a path; one whose bytes are no UTF-8 is a ``file:`` URL."""
    if location.startswith("file:///"):
        return Path(os.fsdecode(unquote_to_bytes(location.removeprefix("file://"))))
    return Path(location)
