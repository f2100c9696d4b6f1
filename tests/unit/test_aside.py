"""Strangers' code on threads of its own: what it gives, what it raises, and when it hangs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from prov4ml import aside
from prov4ml.aside import Aside, Signs
from prov4ml.errors import SinkError


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are shorter here."""
    monkeypatch.setattr(aside, "_SILENCE", 0.2)
    monkeypatch.setattr(aside, "_SLICE", 0.02)


def test_parts_come_in_order_and_errors_as_they_are() -> None:
    """Everything given before an error is there, and the error is the stranger's own."""

    def work(_: Signs) -> Iterator[int]:
        yield from range(100)
        raise KeyError("mine")

    parts = Aside().parts("s", work)
    assert [next(parts) for _ in range(100)] == list(range(100))
    with pytest.raises(KeyError, match="mine"):
        next(parts)
    assert Aside().call("s", lambda: 7) == 7


def test_who_ends_the_program_ends_itself() -> None:
    """``sys.exit`` of a stranger is an error like others."""
    with pytest.raises(SinkError, match="SystemExit: 3"):
        Aside().call("s", lambda: sys.exit(3))


def test_who_hangs_is_left_and_not_asked_again(impatient: None) -> None:
    """As long as it hangs the answer is the same, at once; others are not concerned."""
    over = threading.Event()
    asked = []

    def hang(_: Signs) -> Iterator[int]:
        asked.append(1)
        yield 1
        over.wait()
        yield 2

    strangers = Aside()
    for _ in range(3):
        with pytest.raises(SinkError, match="hangs: no sign of life"):
            list(strangers.parts("s", hang))
    assert asked == [1]
    assert strangers.call("another", lambda: 7) == 7
    over.set()
    thread = strangers._left["s"]
    thread.join(10.0)
    assert not thread.is_alive()
    assert strangers.call("s", lambda: 8) == 8


def test_signs_keep_it_alive(impatient: None) -> None:
    """One who takes statements for long, and gives no part, is waited for."""
    beat = threading.Event()

    def slow(signs: Signs) -> Iterator[int]:
        for _ in signs.each(range(12)):
            beat.wait(0.05)
        yield 1

    assert list(Aside().parts("s", slow)) == [1]


def test_whom_nobody_hears_ends(impatient: None) -> None:
    """When the disk is full the rest is not wanted: the thread ends at its next sign."""

    def endless(_: Signs) -> Iterator[int]:
        while True:
            yield 1

    strangers = Aside()
    parts = strangers.parts("s", endless)
    assert next(parts) == 1
    parts.close()  # type: ignore[attr-defined]
    thread = strangers._left["s"]
    thread.join(10.0)
    assert not thread.is_alive()
