"""What the sender makes of the collector's answers; its thread is not started."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from prov4ml import events as ev
from prov4ml import process, wire
from prov4ml import segment as seg
from prov4ml.journal import Journal
from prov4ml.sender import Sender

RUN = "0191e6a4-8f00-7000-8000-000000000001"


def _sender(folder: Path, events: int) -> Sender:
    pid = os.getpid()
    who = seg.Identity(
        RUN, os.urandom(16), 1, 0, pid, process.pid_start(pid), process.boot_id(), b""
    )
    journal = Journal(who, [folder])
    for n in range(events):
        journal.append(msgspec.msgpack.encode(ev.Tag(n, "key", str(n))))
    return Sender(journal, "tcp://127.0.0.1:9", "", None, lambda: None)


def test_a_welcome_makes_good_a_lost_ack(tmp_path: Path) -> None:
    """After a reconnect that took the last ack, what the collector has counts as acked."""
    sender = _sender(tmp_path, 3)
    own = sender._own
    assert [parcel.count for parcel in own.parcels()] == [3]
    assert (sender.unacked(), sender.complete()) == (3, False)
    sender._hear(wire.Welcome(own.producer, 3))
    assert (sender.acked, own.flying, sender.complete()) == (3, 0, True)
    assert list(own.parcels()) == []
    sender.journal.close(remove=True)


def test_a_welcome_that_lacks_something_has_it_sent_again(tmp_path: Path) -> None:
    """From what the collector names on, whatever was sent before."""
    sender = _sender(tmp_path, 3)
    own = sender._own
    list(own.parcels())
    sender._hear(wire.Welcome(own.producer, 0))
    assert [(parcel.first, parcel.count) for parcel in own.parcels()] == [(0, 3)]
    assert sender.unacked() == 3
    sender.journal.close(remove=True)


def test_who_is_refused_does_not_wait(tmp_path: Path) -> None:
    """A collector that refuses will say nothing more."""
    sender = _sender(tmp_path, 1)
    sender._hear(wire.Refused(sender._own.producer, "another user's"))
    assert sender.finish(float("inf")) is False
    sender.journal.close(remove=True)
