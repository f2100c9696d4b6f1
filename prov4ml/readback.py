"""Metric values that lie on another device, read back in order by a thread of their own.

Reading a scalar of a GPU waits until everything before it on the device is done.  So a log call
takes a copy there, which waits for nothing, and this thread asks for its number when it is
ready; training, and the sender that ships journals, never wait for it.  The rules:

* **The value is that of the call.**  The copy is made in the order of the device, on the stream
  that is current in the call: what is changed in place afterwards does not reach it.  What another
  stream is still writing then is as undefined as for any reader; make your stream wait for it.
* **Order.**  Points of one series stand in the order of their calls, with the time of their call:
  while one waits, later ones of its series queue behind it, whatever they are.  Series do not
  wait for each other's numbers in any other way than by the one queue.
* **Kept when read.**  Until then a value is in no journal: the death of the process loses it, and
  nothing says that it was there.  ``close`` waits for what is left; what does not come in time, or
  turns out to be no number that can be kept, is counted, with the reason.
* **Bounded**: ``MOST`` values wait; those beyond it are counted as lost at once.

Which values these are, only their device decides (``elsewhere``); nothing here needs CUDA.  Like
the journal, ``add`` may be called from signal handlers: it holds its lock over no call that waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from prov4ml.errors import UsageError
from prov4ml.events import Point
from prov4ml.journal import Journal
from prov4ml.talk import log

__all__ = ["MOST", "Readback", "elsewhere", "single"]

MOST: Final = 16_384
"""Values that may wait at once; a GPU queues about a thousand operations, then launching waits."""


def elsewhere(value: Any) -> bool:
    """Whether reading a value would wait for a device.

    Tensors of torch and of what has its ways: ``device.type``, or ``device.platform`` as JAX has
    it.  Not subclasses of torch's tensor: reading a distributed one can take its peers.
    """
    device = getattr(value, "device", None)
    kind = getattr(device, "type", None)
    if kind == "cpu":
        return False
    kind = kind or getattr(device, "platform", None)
    if not isinstance(kind, str) or kind in ("cpu", "meta") or not hasattr(value, "item"):
        return False
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    if tensor is None or not isinstance(value, tensor):
        return True
    return type(value) in (tensor, torch.nn.Parameter)  # type: ignore[union-attr]


def single(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless it is one real number, as far as can be told without reading."""
    count, shape = 1, tuple(getattr(value, "shape", ()))
    for length in shape:
        count *= length
    dtype = str(getattr(value, "dtype", ""))
    if count != 1:
        what = f"{type(value).__name__} of shape {shape}"
    elif "complex" in dtype:
        what = f"{type(value).__name__} of {dtype}"
    else:
        return
    raise TypeError(f"{argument} must be a single number, not {what}")


class _Entry:
    """A point that waits: ``value`` is its number, or the copy on a device, ready at ``event``."""

    __slots__ = ("event", "point", "then", "value")

    def __init__(self, point: Point, value: Any, then: Callable[[float], None] | None) -> None:
        self.point = point
        self.value = value
        self.event: Any = None
        self.then = then


class Readback:
    """The values of one journal that are still to be read.

    ``read`` makes the float of a value and may wait; it raises what the value is to blame for.
    ``waiting`` holds the series of which points wait, each with the newest of them; who puts a
    series on a faster way does so under ``lock``, and only when it is not there.
    """

    def __init__(self, journal: Journal, read: Callable[[Any], float]) -> None:
        self._journal = journal
        self._read = read
        self.restart()

    def restart(self) -> None:
        """In a forked child: what waits is the parent's."""
        self.lock = threading.RLock()  # a signal handler may come by inside
        self.waiting: dict[int, _Entry] = {}
        self.why = ""  # values were lost
        self._queue: SimpleQueue[_Entry | threading.Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._streams: dict[Any, Any] = {}  # by device; of the thread alone
        self._added = 0
        self._settled = 0  # in the journal
        self._lost = 0
        self._writing = False
        self._closed = False

    def add(self, point: Point, value: Any, then: Callable[[float], None] | None = None) -> None:
        """Queue a point whose number is ``value``: a float, or something ``elsewhere``.

        ``then`` is told the number once the point is written, on the thread that read it.
        """
        entry = _Entry(point, value, then)
        failed = ""
        if type(value) is not float:
            try:
                entry.value, entry.event = _copied(value)
            except Exception as error:  # out of memory there: the training will find out itself
                failed = f"it could not be copied: {type(error).__name__}"
        begun: threading.Thread | None = None
        with self.lock:
            if self._closed:
                raise UsageError("the run has ended: call start_run first")
            if self._added - self._settled - self._lost >= MOST:
                failed = f"{MOST:,} others wait for their device"
            self._added += 1
            if not failed:
                self.waiting[point.series] = entry
                self._queue.put(entry)
                if self._thread is None:
                    begun = self._thread = threading.Thread(
                        target=self._run, name="prov4ml-readback", daemon=True
                    )
        if begun is not None:
            begun.start()
        if failed:
            self._lose(failed)

    def close(self, timeout: float) -> int:
        """Wait for what is queued; gives how many values never came, for ``why``.

        Nothing is written, and nothing taken, after that.
        """
        until = time.monotonic() + max(0.0, timeout)
        if self._thread is not None and not self._closed:
            done = threading.Event()
            self._queue.put(done)
            if not done.wait(max(0.0, until - time.monotonic())):
                self.why = self.why or "its device did not give the value before the run's end"
        with self.lock:
            self._closed = True
            lost = self._added - self._settled
        self._queue.put(None)
        # A copy into the journal waits for no device; but we may have interrupted its writer.
        while self._writing and time.monotonic() < until + 0.1:
            time.sleep(0.0005)
        return lost

    # ---------------------------------------------------------------------- on the thread

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                self._settle(entry)

    def _settle(self, entry: _Entry) -> None:
        point = entry.point
        try:
            number = self._number(entry)
        except Exception as error:
            self._lose(f"{type(error).__name__}: {error}")
        else:
            self._write(msgspec.structs.replace(point, value=number))
            if entry.then is not None:
                self._tell(entry.then, number)
        entry.value = entry.event = None  # its memory on the device
        with self.lock:
            if self.waiting.get(point.series) is entry:
                del self.waiting[point.series]

    def _number(self, entry: _Entry) -> float:
        """The number, once it is there.

        On a stream of our own: one that training uses would put the question behind everything
        that was asked of it since.
        """
        value, event = entry.value, entry.event
        if event is None:
            return self._read(value)
        event.synchronize()
        device = value.device
        accelerator = _streamed(device)
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = accelerator.Stream(device)
        with accelerator.stream(stream):
            return self._read(value)

    def _write(self, point: Point) -> None:
        record = msgspec.msgpack.encode(point)
        with self.lock:
            if self._closed:
                return
            self._settled += 1
            self._writing = True
        try:
            self._journal.append(record)
        finally:
            self._writing = False

    def _tell(self, then: Callable[[float], None], number: float) -> None:
        try:
            then(number)
        except Exception as error:
            log.warning("a metric value: %s: %s", type(error).__name__, error)

    def _lose(self, why: str) -> None:
        with self.lock:
            self._lost += 1
            self.why = why
        log.warning("a metric value is lost, and counted: %s", why)


def _copied(value: Any) -> tuple[Any, Any]:
    """A copy that nobody else holds, and what tells when it is made; waits for nothing."""
    if hasattr(value, "detach"):
        copy = value.detach().clone()
    else:  # arrays of JAX never change, but may be given away
        copy = value.copy() if hasattr(value, "copy") else value
    accelerator = _streamed(value.device)
    if accelerator is None:
        return copy, None
    event = accelerator.Event(blocking=True)  # who waits for it sleeps
    event.record(accelerator.current_stream(value.device))
    return copy, event


def _streamed(device: Any) -> Any:
    """``torch.cuda`` (ROCm too) for a device of it; of others the order of one queue is enough."""
    if getattr(device, "type", None) != "cuda":
        return None
    return getattr(sys.modules.get("torch"), "cuda", None)
