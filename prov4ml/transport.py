"""The only importer of zmq: two sockets and their limits.

A ``Client`` never blocks and never waits on close; a ``Server`` hears many clients.  Nothing
sent is kept here for long: the journal has it, and it is sent again until it is acked.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from typing import Final

import zmq

from prov4ml.errors import UsageError

__all__ = ["MAX_MESSAGE", "Client", "Server"]

MAX_MESSAGE: Final = (1 << 20) + 4096
"""A message has at most this many bytes."""

_REFUSED: Final = 2 * MAX_MESSAGE
"""A part that is bigger ends its connection, unread.  Between the two the collector can say so."""

_CONNECT: Final = 5_000  # ms for a connection, and again for the greeting of ZeroMQ
_QUIET: Final = 10  # s after which the kernel asks whether the other end of a connection is there
_QUEUE: Final = 64  # messages of at most 1 MiB: the bound of what a socket holds


class _Socket:
    """A zmq socket with its limits, and an alarm that ends a wait from any thread."""

    def __init__(self, kind: int) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(kind)
        self._socket.linger = 0
        self._socket.set_hwm(_QUEUE)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _REFUSED)
        # Not the heartbeats of ZeroMQ: libzmq 4.3.5 aborts the process at the next one when a peer
        # went away while the queue from it was full (stream_engine_base.cpp, !_io_error).
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _QUIET)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
        self._lock = threading.Lock()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._alarm, zmq.POLLIN)
        self._sendable = False  # whether the poller waits for that, too

    def wake(self) -> None:
        """From any thread: end a ``receive`` that waits."""
        with self._lock:
            if self._alarm >= 0:
                os.eventfd_write(self._alarm, 1)

    def _receive(self, timeout: float, most: int, sendable: bool = False) -> Iterator[list[bytes]]:
        if sendable is not self._sendable:
            self._sendable = sendable
            wanted = zmq.POLLIN | zmq.POLLOUT if sendable else zmq.POLLIN
            self._poller.modify(self._socket, wanted)
        for ready, _ in self._poller.poll(math.ceil(timeout * 1000)):
            if ready == self._alarm:
                os.eventfd_read(self._alarm)
        for _ in range(most):
            if not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            try:
                yield self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()
        with self._lock:  # a number that was closed may soon be another file's
            if self._alarm >= 0:
                os.close(self._alarm)
                self._alarm = -1


class Client(_Socket):
    """A DEALER with an automatic routing id."""

    def __init__(self, address: str) -> None:
        super().__init__(zmq.DEALER)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, _CONNECT)
        self._socket.connect(address)

    def send(self, *parts: bytes) -> bool:
        """Hand a message over.  False: nobody is there, or the queue is full; try later."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout: float, sendable: bool = False) -> Iterator[bytes]:
        """Messages that are there, waiting up to ``timeout`` s for the first or ``wake``.

        ``sendable``: the wait also ends as soon as something can be sent.
        """
        for parts in self._receive(timeout, 1000, sendable):
            yield parts[0]


class Server(_Socket):
    """A ROUTER.  ``address`` is where it really listens (a port 0 is filled in)."""

    def __init__(self, address: str) -> None:
        super().__init__(zmq.ROUTER)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(f"cannot listen at {address}: {error.strerror}") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def receive(self, timeout: float, most: int = 256) -> Iterator[tuple[bytes, list[bytes]]]:
        """(client, frames) of at most ``most`` messages, waiting up to ``timeout`` s."""
        for parts in self._receive(timeout, most):
            yield parts[0], parts[1:]

    def send(self, client: bytes, message: bytes) -> None:
        """Answer a client; one that is gone or does not read misses it, and asks again."""
        try:
            self._socket.send_multipart((client, message), zmq.NOBLOCK)
        except zmq.ZMQError:
            pass
