"""Messages and batches as bytes; one encoder, one typed decoder each.

A *batch* is a stretch of one producer's stream: a msgpack array of events.  A batch of count 0
is a *series table*: definitions repeated so that what follows can be read alone; it has no
sequence numbers.  On the socket a message is one msgpack array with an integer tag; a batch
message carries the batch as a second frame.  ``prov4ml/docs/format.md`` describes all of it.
No sockets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from prov4ml import events as ev
from prov4ml.errors import WireError

__all__ = [
    "MAX_BATCH",
    "MAX_RECORD",
    "PROTOCOL",
    "Ack",
    "Batch",
    "Closed",
    "Hello",
    "Message",
    "Refused",
    "Request",
    "Welcome",
    "array_header",
    "cut",
    "decode_batch",
    "decode_message",
    "decode_request",
    "decode_table",
    "encode",
    "split",
]

PROTOCOL: Final = 1
"""Major version of the messages; a peer of another one is refused at hello."""

MAX_BATCH: Final = 1 << 20
"""A batch has at most this many bytes."""

MAX_RECORD: Final = 1 << 16
"""An event has at most this many bytes; bigger values become side files."""


class _Base(msgspec.Struct, array_like=True, frozen=True):
    pass


# ------------------------------------------------------------------ from client to collector


class Hello(_Base, frozen=True, tag=1):
    """A producer introduces itself; asked again whenever an answer stays out."""

    protocol: int
    event_format: int
    version: str  # of prov4ml
    run: str  # UUID
    producer: bytes
    directory: str  # absolute path of the run directory, on the client's host
    host: str
    uid: int
    pid: int
    pid_start: int
    boot_id: str
    ending: bool = False  # the producer has logged its end and waits for the documents
    sent: int = -1  # the sequence behind the last event it has sent; -1: it does not say


class Batch(_Base, frozen=True, tag=2):
    """Announces the frame behind it: ``count`` events from sequence ``first`` on."""

    protocol: int
    run: str
    producer: bytes
    first: int
    count: int
    lost: int = 0  # events right before `first` that will never come


Request: TypeAlias = Hello | Batch


# ------------------------------------------------------------------ from collector to client


class Welcome(_Base, frozen=True, tag=16):
    """Answer to a hello: the sequence the collector expects next of this producer.

    Everything before ``next`` is safe in the event log.
    """

    producer: bytes
    next: int
    sent: int = -1  # as the hello had it: what was sent later may still be on the way


class Ack(_Base, frozen=True, tag=17):
    """Everything before ``next`` is safe in the event log; send from ``next`` on.

    ``rewind``: the collector saw a gap, or never got what was sent: go back to ``next``.
    """

    producer: bytes
    next: int
    rewind: bool = False


class Closed(_Base, frozen=True, tag=18):
    """What an ending producer waits for.

    ``last`` False: other ranks go on, nothing to wait for.  True: the documents are written.
    """

    run: str
    last: bool
    status: str = ""
    sent: int = 0
    received: int = 0
    lost: int = 0
    rejected: int = 0
    outputs: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


class Refused(_Base, frozen=True, tag=19):
    """The collector will not take this producer; ``reason`` says what to do.

    ``again``: it may be otherwise soon (a full disk, a collector that just ends): ask again.
    """

    producer: bytes
    reason: str
    again: bool = False


Message: TypeAlias = Welcome | Ack | Closed | Refused

_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final = msgspec.msgpack.Decoder(Request)
_messages: Final = msgspec.msgpack.Decoder(Message)
_events: Final = msgspec.msgpack.Decoder(list[ev.Event])
_event: Final = msgspec.msgpack.Decoder(ev.Event)
_raw: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_table: Final = msgspec.msgpack.Decoder(list[ev.SeriesDefined])

_BAD: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

encode = _encoder.encode
"""Bytes of a message or an event."""


def decode_request(data: bytes) -> Request:
    """What a client said.  Raises ``WireError``."""
    try:
        request: Request = _requests.decode(data)
    except _BAD as error:
        raise WireError(f"not a request: {error}") from None
    return request


def decode_message(data: bytes) -> Message:
    """What a collector said.  Raises ``WireError``."""
    try:
        message: Message = _messages.decode(data)
    except _BAD as error:
        raise WireError(f"not a message: {error}") from None
    return message


# ---------------------------------------------------------------------------------- batches


def array_header(count: int) -> bytes:
    """The msgpack header of an array of ``count`` items, always 5 bytes."""
    return b"\xdd" + count.to_bytes(4, "big")


def decode_batch(data: bytes, count: int) -> Sequence[ev.Event | str]:
    """The ``count`` events of a batch.

    A batch that does not decode as a whole is decoded event by event; an item that is a
    ``str`` stands for an event that did not, and says why.  Never raises for bad bytes.
    """
    try:
        whole = _events.decode(data)
        if len(whole) == count:
            return whole
    except _BAD:
        pass
    try:
        parts = _raw.decode(data)
    except _BAD:
        return ["batch is no msgpack array"] * count
    events = [_one(part) for part in parts[:count]]
    return events + ["missing from its batch"] * (count - len(events))


def _one(data: msgspec.Raw) -> ev.Event | str:
    try:
        event: ev.Event = _event.decode(data)
        return event
    except msgspec.ValidationError as error:
        text = str(error)
        return "event of an unknown kind" if "Invalid value" in text and "tag" in text else text
    except _BAD as error:
        return str(error)


def cut(data: bytes, skip: int) -> bytes:
    """A batch without its first ``skip`` events; unchanged when it cannot be taken apart."""
    try:
        parts = _raw.decode(data)
    except _BAD:
        return data
    rest = parts[skip:]
    return array_header(len(rest)) + b"".join(bytes(part) for part in rest)


def split(data: bytes, most: int = MAX_BATCH) -> list[bytes]:
    """A series table as batches of about ``most`` bytes; none for an empty one.

    A batch has one definition at least, and never more than ``MAX_BATCH`` bytes.
    """
    if len(data) <= most:
        return [data] if data else []
    tables: list[bytes] = []
    part: list[msgspec.Raw] = []
    size = 5
    for record in _raw.decode(data):
        if part and size + len(record) > most:
            tables.append(array_header(len(part)) + b"".join(part))
            part, size = [], 5
        part.append(record)
        size += len(record)
    return [*tables, array_header(len(part)) + b"".join(part)]


def decode_table(data: bytes) -> list[ev.SeriesDefined]:
    """The definitions of a series table; none of one that is damaged."""
    try:
        return _table.decode(data)
    except _BAD:
        return []
