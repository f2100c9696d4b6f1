"""Bytes that were handed over: hashed, stored by content, and safe until the log has it."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prov4ml import events as ev
from prov4ml import hashing, store
from prov4ml.producer import Producer

PRODUCER = Producer(b"p" * 16)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "artifacts" / ".incoming").mkdir(parents=True)
    return tmp_path


def handed(run: Path, n: int, data: bytes = b"data") -> ev.Artifact:
    path = store.incoming(run, PRODUCER.id, n)
    path.write_bytes(data)
    return ev.Artifact(1, n, "artifact", "a", None, path.name, len(data))


def kept(run: Path, artifact: ev.Artifact) -> ev.Stored:
    return store.keep(run, PRODUCER, artifact, hashing.Pace())


def test_a_copy_lies_where_its_hash_says(run: Path) -> None:
    """And in ``.incoming`` too, until somebody says that it may go: one file with two names."""
    made = kept(run, handed(run, 1))
    digest = hashlib.sha256(b"data").hexdigest()
    assert (made.sha256, made.size, made.path) == (digest, 4, f"artifacts/{digest[:2]}/{digest}")
    copy = store.incoming(run, PRODUCER.id, 1)
    assert os.path.samefile(copy, run / str(made.path))


def test_storing_again_after_a_crash_gives_the_same(run: Path) -> None:
    """A collector that stored and died before it could say so is followed by one that can."""
    artifact = handed(run, 1)
    first, second = kept(run, artifact), kept(run, artifact)
    assert (first.sha256, first.path) == (second.sha256, second.path)


def test_the_same_bytes_of_two_are_one_file(run: Path) -> None:
    """The second copy goes when its name in ``.incoming`` does."""
    one, two = kept(run, handed(run, 1)), kept(run, handed(run, 2))
    assert one.path == two.path
    store.incoming(run, PRODUCER.id, 2).unlink()
    assert (run / str(one.path)).read_bytes() == b"data"


def test_a_file_system_without_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied, whole or not at all; what was handed over stays until the log says so."""

    def none(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    made = kept(run, handed(run, 1))
    assert (run / str(made.path)).read_bytes() == b"data"
    assert store.incoming(run, PRODUCER.id, 1).exists()
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("incoming", "reason"),
    [
        ("other", "the copy has a name that is not its own"),
        ("../../run.json", "the copy has a name that is not its own"),
        (f"{PRODUCER.id.hex()}-1", "No such file or directory"),
    ],
)
def test_only_the_occurrences_own_copy_counts(run: Path, incoming: str, reason: str) -> None:
    """Names come over the wire; a copy that is gone is said to be."""
    (run / "run.json").write_text("{}")
    artifact = ev.Artifact(1, 1, "artifact", "a", None, incoming, 4)
    made = kept(run, artifact)
    assert (made.sha256, made.error) == (None, reason)
    assert (run / "run.json").exists()


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_copy_that_is_no_file(run: Path, kind: str) -> None:
    """Whatever lies under its name: no wait, no other file's bytes."""
    (run / "secret").write_bytes(b"secret")
    path = store.incoming(run, PRODUCER.id, 1)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(run / "secret")
    else:
        path.mkdir()
    made = kept(run, ev.Artifact(1, 1, "artifact", "a", None, path.name, 4))
    assert made.sha256 is None
    assert made.error


def test_a_location_with_a_nul(run: Path) -> None:
    """A path that came over the wire may be none."""
    PRODUCER.started = None
    made = kept(run, ev.Artifact(1, 1, "artifact", "a", "/x\0y", None, 4))
    assert made.error == "on another host"


@pytest.fixture
def keeper(run: Path) -> Iterator[store.Keeper]:
    woken: list[int] = []
    made = store.Keeper(run, lambda: woken.append(1))
    yield made
    made.stop()


def test_the_keeper_stores_each_once(run: Path, keeper: store.Keeper) -> None:
    """However often it is told; results come in order."""
    artifacts = [handed(run, n, b"%d" % n) for n in range(1, 20)]
    for _ in range(3):
        for artifact in artifacts:
            keeper.take(PRODUCER, artifact)
    found: list[int] = []
    deadline = time.monotonic() + 30
    while len(found) < len(artifacts) and time.monotonic() < deadline:
        found += [each.n for each in keeper.results(1.0)]
    assert found == list(range(1, 20))
    assert list(keeper.results(0.01)) == []


def test_the_keeper_goes_on_after_anything(
    run: Path, keeper: store.Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one file raises is its reason, and the next is stored."""
    plain = hashing.sha256

    def sometimes(file: Any, *words: Any, **more: Any) -> Any:
        if str(file.name).endswith("-1"):
            raise MemoryError("too much")
        return plain(file, *words, **more)

    monkeypatch.setattr(hashing, "sha256", sometimes)
    for n in (1, 2):
        keeper.take(PRODUCER, handed(run, n))
    found: list[ev.Stored] = []
    deadline = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < deadline:
        found += keeper.results(1.0)
    assert [(each.n, each.error) for each in found] == [(1, "MemoryError: too much"), (2, None)]


def test_manners() -> None:
    """No rest on a free core; longer and longer ones while it waits; none once that is over."""
    account = [0, 0]
    manners = hashing.Manners(lambda: (account[0], account[1]))

    def worked(ran: int, waited: int) -> float:
        account[0] += ran
        account[1] += waited
        return manners.rest()

    us, ms = 1000, 1_000_000
    assert [worked(200 * us, 20 * us) for _ in range(5)] == [0] * 5
    rests = [worked(200 * us, 3 * ms) for _ in range(10)]
    assert rests == sorted(rests)
    assert rests[0] == 0.001
    assert rests[-1] == pytest.approx(0.02)
    assert worked(2 * ms, 30 * ms) <= 0.1
    rests = [worked(200 * us, 10 * us) for _ in range(20)]
    assert rests == sorted(rests, reverse=True)
    assert rests[-1] == 0


def test_a_hash_that_nobody_waits_for_stops(run: Path) -> None:
    """Between two chunks."""
    path = run / "big"
    path.write_bytes(b"x" * (5 << 20))
    pace = hashing.Pace()
    pace.stop = True
    with hashing.opened(path) as file, pytest.raises(hashing.Stopped):
        hashing.sha256(file, pace)
    pace.stop = False
    with hashing.opened(path) as file:
        assert hashing.sha256(file, pace, ours=True)[1] == 5 << 20


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_is_no_answer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again; nothing is copied in vain."""
    artifact = handed(run, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _full)
        with pytest.raises(OSError, match="No space"):
            kept(run, artifact)
    assert store.incoming(run, PRODUCER.id, 1).exists()
    assert kept(run, artifact).sha256 is not None


def test_the_keeper_waits_for_room(
    run: Path, keeper: store.Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so meanwhile; then what it waited with is stored, and the next."""
    monkeypatch.setattr(store, "_AGAIN", 0.01)
    deadline = time.monotonic() + 30
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _full)
        for n in (1, 2):
            keeper.take(PRODUCER, handed(run, n, b"%d" % n))
        while keeper.starved is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert keeper.starved is not None
        assert list(keeper.results(0.05)) == []
    found: list[ev.Stored] = []
    while len(found) < 2 and time.monotonic() < deadline:
        found += keeper.results(1.0)
    assert [(each.n, each.sha256 is not None) for each in found] == [(1, True), (2, True)]
    assert keeper.starved is None


def test_a_keeper_that_waits_for_room_can_be_stopped(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; what it waited with is nobody's answer."""
    monkeypatch.setattr(os, "link", _full)
    keeper = store.Keeper(run, lambda: None)
    keeper.take(PRODUCER, handed(run, 1))
    deadline = time.monotonic() + 30
    while keeper.starved is None and time.monotonic() < deadline:
        time.sleep(0.005)
    keeper.stop()
    assert keeper._thread is not None
    assert not keeper._thread.is_alive()
    assert list(keeper.results(0.01)) == []
