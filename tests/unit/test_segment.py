"""Segment files: header, commit word, cut points, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.errors import FormatError

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
WHO = seg.Identity(RUN, b"p" * 16, 2, 3, 4, 5, RUN, b"q" * 16)


def _filled(path: Path, events: int) -> seg.Segment:
    segment = seg.create(path, WHO, 16_384)
    segment.begin(100, b"")
    position = segment.base
    for n in range(events):
        record = msgspec.msgpack.encode(ev.Tag(n, "k", "v"))
        segment.buffer[position : position + len(record)] = record
        position += len(record)
        segment.words[seg.COMMIT] = n + 1 << 32 | position - segment.base
    return segment


def test_what_was_committed_is_read_back(tmp_path: Path) -> None:
    """Identity, first sequence, count and records come back from the file."""
    path = tmp_path / "a" / "0.seg"
    segment = _filled(path, 3)
    view = seg.view(path)
    assert view.who == WHO == seg.identity(path)
    assert (view.first, view.count) == (100, 3)
    assert seg.committed(path) == segment.commit == 3 << 32 | len(view.records)
    assert view.table == b""
    segment.close()


def test_bytes_behind_the_commit_mean_nothing(tmp_path: Path) -> None:
    """A record that was copied and not committed is not there."""
    segment = _filled(tmp_path / "0.seg", 1)
    end = segment.base + (segment.commit & seg.MASK)
    record = msgspec.msgpack.encode(ev.Tag(9, "false", "v"))
    segment.buffer[end : end + len(record)] = record
    assert seg.view(segment.path).count == 1
    assert b"false" not in seg.view(segment.path).records
    segment.close()


def test_a_cut_point_that_is_no_record_boundary_is_left_out(tmp_path: Path) -> None:
    """A batch never begins in the middle of a record."""
    segment = _filled(tmp_path / "0.seg", 4)
    record = (segment.commit & seg.MASK) // 4
    segment.cut(record, 1)
    segment.cut(2 * record + 1, 2)
    segment.cut(3 * record, 2)
    assert seg.view(segment.path).cuts == ((record, 1),)
    segment.close()


def test_more_cut_points_than_the_header_holds_stay_in_memory(tmp_path: Path) -> None:
    """The header's table ends; the records behind are not overwritten."""
    segment = _filled(tmp_path / "0.seg", 300)
    record = (segment.commit & seg.MASK) // 300
    sizes = [len(msgspec.msgpack.encode(ev.Tag(n, "k", "v"))) for n in range(300)]
    for n in range(1, 300):
        segment.cut(sum(sizes[:n]), n)
    view = seg.view(segment.path)
    assert record
    assert len(segment.cuts) == 299
    assert len(view.cuts) == (seg.HEADER - 144) // 16
    assert view.count == 300
    segment.close()


def test_folder_and_file_are_the_owners_alone(tmp_path: Path) -> None:
    """0700 and 0600, whatever the umask adds."""
    before = os.umask(0)
    try:
        segment = seg.create(tmp_path / "own" / "0.seg", WHO, 8192)
    finally:
        os.umask(before)
    assert stat.S_IMODE(segment.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(segment.path.parent.stat().st_mode) == 0o700
    segment.close()


def test_an_existing_file_is_never_taken_over(tmp_path: Path) -> None:
    """A second segment of one name is an error, and the first one stays."""
    segment = _filled(tmp_path / "0.seg", 2)
    with pytest.raises(FileExistsError):
        seg.create(segment.path, WHO, 8192)
    assert seg.view(segment.path).count == 2
    segment.close()


def test_an_interrupt_while_a_segment_is_made_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file left behind would take the name, and its memory."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(seg, "write_header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        seg.create(tmp_path / "0.seg", WHO, 8192)
    assert not list(tmp_path.iterdir())


def test_a_segment_made_ahead_of_need_is_empty(tmp_path: Path) -> None:
    """Nothing is committed in it, and that is no damage, even while it is being named."""
    segment = seg.create(tmp_path / "0.seg", WHO, 8192)
    assert seg.view(segment.path).count == 0
    segment.buffer[seg.HEADER : seg.HEADER + 3] = b"abc"
    segment.words[13] = 3  # the table's size, before its checksum
    assert seg.view(segment.path).count == 0
    segment.close()


@pytest.mark.parametrize("data", [b"", b"P4MLSEG1", b"x" * 5000, bytes(5000), b"P4MLSEG2" * 700])
def test_what_is_no_segment_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    """The error names the file."""
    path = tmp_path / "odd.seg"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"odd\.seg"):
        seg.view(path)


def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """A later format is not guessed at."""
    segment = _filled(tmp_path / "0.seg", 1)
    segment.buffer[8] = 9
    with pytest.raises(FormatError, match="format 9; this prov4ml reads 1"):
        seg.view(segment.path)
    segment.close()


def test_a_file_cut_short_still_says_how_much_it_held(tmp_path: Path) -> None:
    """As long as its header and table are whole; else nothing is claimed."""
    path = tmp_path / "0.seg"
    _filled(path, 3).close()
    os.truncate(path, seg.HEADER + 5)
    with pytest.raises(FormatError, match="shorter than what it has committed"):
        seg.view(path)
    assert seg.claimed(path) == 103
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"x")
    assert seg.claimed(path) is None
    path.write_bytes(bytes(8192))
    assert seg.claimed(path) is None
