"""Bytes that were handed over: stored by content, told once, whatever is full in between."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from prov4ml import events as ev
from prov4ml import store
from prov4ml.state import Producer

P = bytes(range(16))


def _handed(directory: Path, n: int, data: bytes) -> ev.Artifact:
    incoming = directory / "artifacts" / ".incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    name = f"{P.hex()}-{n}"
    (incoming / name).write_bytes(data)
    return ev.Artifact(1, n, "artifact", "a", "a", name, len(data))


def test_who_dies_before_it_is_told_leaves_all_that_is_needed(tmp_path: Path) -> None:
    """Stored twice is stored once: the copy keeps its name until the log has the answer."""
    artifact = _handed(tmp_path, 1, b"weights")
    first = store.keep(tmp_path, Producer(P), artifact, 5)
    again = store.keep(tmp_path, Producer(P), artifact, 5)
    assert again == first
    digest = hashlib.sha256(b"weights").hexdigest()
    assert first == ev.Stored(5, P, 1, digest, 7, f"artifacts/{digest[:2]}/{digest}")
    assert (tmp_path / str(first.path)).stat().st_nlink == 2
    store.taken(tmp_path, artifact, first)
    assert (tmp_path / str(first.path)).read_bytes() == b"weights"
    store.tidy(tmp_path, {(P, 1): first})
    assert not (tmp_path / "artifacts" / ".incoming").exists()


def test_what_a_crash_left_under_both_names_is_tidied_up(tmp_path: Path) -> None:
    """And what nobody stored stays."""
    first = store.keep(tmp_path, Producer(P), _handed(tmp_path, 1, b"weights"), 5)
    _handed(tmp_path, 2, b"not told yet")
    store.tidy(tmp_path, {(P, 1): first})
    left = (tmp_path / "artifacts" / ".incoming").iterdir()
    assert [path.name for path in left] == [f"{P.hex()}-2"]


def test_without_hard_links_the_copy_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have none."""

    def none(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    kept = store.keep(tmp_path, Producer(P), _handed(tmp_path, 1, b"weights"), 5)
    assert (tmp_path / str(kept.path)).read_bytes() == b"weights"


def test_no_room_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again; a file that is gone is told."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    artifact = _handed(tmp_path, 1, b"weights")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(OSError, match="No space"):
            store.keep(tmp_path, Producer(P), artifact, 5)
    assert store.keep(tmp_path, Producer(P), artifact, 5).sha256 is not None
    gone = ev.Artifact(1, 2, "artifact", "a", "a", f"{P.hex()}-2", 7)
    assert store.keep(tmp_path, Producer(P), gone, 5).error == "No such file or directory"
