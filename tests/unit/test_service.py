"""The lock of the automatic collector: held from before it starts to its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prov4ml import service


@pytest.fixture
def found(tmp_path: Path) -> service.Service:
    """The names of a collector that nobody else knows."""
    return service.Service(tmp_path / "a.sock", tmp_path / "a.lock", tmp_path / "a.log")


def test_the_lock_goes_over_to_the_collector(
    found: service.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts one leaves the lock to it: there is no moment at which nobody holds it."""
    held = service.take(found)
    assert held is not None
    left = os.dup(held)  # as a child inherits it
    os.close(held)
    assert service.served(found)
    monkeypatch.setenv(service._LOCK_FD, str(left))
    assert service.inherit(found) == left
    assert not os.get_inheritable(left)
    assert service._LOCK_FD not in os.environ
    assert service.take(found) is None
    assert service.spawn(found) is False
    os.close(left)
    assert not service.served(found)


@pytest.mark.parametrize("number", ["", "x", "0", "999"])
def test_a_collector_started_by_hand_takes_the_lock_itself(
    found: service.Service, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """A number that is no lock of ours is passed over; a second collector gets none."""
    monkeypatch.setenv(service._LOCK_FD, number)
    first = service.inherit(found)
    assert first is not None
    assert service.inherit(found) is None
    os.close(first)
