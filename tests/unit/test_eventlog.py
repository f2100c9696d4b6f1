"""The event log: torn and damaged frames, turns of files, cursors, readers beside a writer."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from prov4ml import eventlog
from prov4ml.errors import FormatError, InUse
from prov4ml.eventlog import EventLog, Frame, Held, Reader, compress

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
P, Q = b"p" * 16, b"q" * 16


def _batch(n: int) -> bytes:
    return b"%06d" % n * (1 + n % 7)


def _write(log: EventLog, numbers: range) -> None:
    for n in numbers:
        assert log.append(P if n % 2 else Q, n // 2, 1, _batch(n)) == n


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if ".log" in p.name)


def _frames(directory: Path, frame: int = 0) -> list[Frame]:
    with closing(Reader(directory, frame)) as reader:
        return list(reader)


def _right(frames: list[Frame], numbers: range) -> None:
    assert [f.number for f in frames] == list(numbers)
    assert [f.batch for f in frames] == [_batch(n) for n in numbers]
    assert [(f.producer, f.first) for f in frames] == [(P if n % 2 else Q, n // 2) for n in numbers]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files turn after a few frames."""
    monkeypatch.setattr(eventlog, "SEGMENT", 500)


def test_frames_come_back_in_order_and_each_producer_has_its_next(tmp_path: Path) -> None:
    """What was appended is read; opening it again goes on behind it."""
    log = EventLog(tmp_path / "events", RUN)
    _write(log, range(10))
    assert log.sync() == 10
    log.append(P, 99, 0, b"a table")
    log.close()
    again = EventLog(tmp_path / "events", RUN)
    assert again.next == {P: 5, Q: 5}
    assert again.frames == again.synced == 11
    assert again.append(P, 5, 2, b"more") == 11
    again.close()
    frames = _frames(tmp_path / "events")
    _right(frames[:10], range(10))
    assert frames[11] == Frame(11, P, 5, 2, b"more")


@pytest.mark.parametrize("files", ["one", "many"])
def test_a_torn_end_is_cut_off_at_every_byte(
    tmp_path: Path, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file cut anywhere: the whole frames stay, and writing goes on behind them."""
    monkeypatch.setattr(eventlog, "SEGMENT", 500 if files == "many" else 1 << 20)
    source = tmp_path / "source"
    log = EventLog(source, RUN)
    _write(log, range(24))
    log.close()
    last = _files(source)[-1]
    assert (last.name == "000000000000.log") == (files == "one")
    data, begins = last.read_bytes(), int(last.name[:12])
    ends = [40]
    for n in range(begins, 24):
        ends.append(ends[-1] + 36 + len(_batch(n)))
    assert ends[-1] == len(data)
    for size in range(len(data) + 1):
        last.write_bytes(data[:size])
        whole = begins + max(sum(end <= size for end in ends) - 1, 0)
        _right(_frames(source), range(whole))
        log = EventLog(source, RUN)
        assert log.frames == whole
        assert log.append(P, 12, 1, b"new") == whole
        log.close()
        frames = _frames(source)
        _right(frames[:-1], range(whole))
        assert frames[-1].batch == b"new"
        for path in _files(source):
            if int(path.name[:12]) >= begins:
                path.unlink()


def test_zeros_at_the_end_are_cut_off(tmp_path: Path) -> None:
    """A file that grew without its data (power cut) is a torn one."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(3))
    log.close()
    (path,) = _files(tmp_path)
    with open(path, "ab") as file:
        file.write(bytes(300))
    _right(_frames(tmp_path), range(3))
    log = EventLog(tmp_path, RUN)
    _write(log, range(3, 6))
    log.close()
    _right(_frames(tmp_path), range(6))
    assert [p.name for p in _files(tmp_path)] == [path.name]


def test_a_flipped_bit_in_an_earlier_file_ends_that_file_and_is_told(
    tmp_path: Path, small: None
) -> None:
    """Frames before it and all later files are read under their own numbers."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(30))
    log.close()
    files = _files(tmp_path)
    assert len(files) > 2
    data = bytearray(files[0].read_bytes())
    data[40 + 36 + len(_batch(0)) + 36] ^= 1  # in the second frame's batch
    files[0].write_bytes(data)
    second = int(files[1].name[:12])
    with closing(Reader(tmp_path)) as reader:
        frames = list(reader)
    assert [f.number for f in frames] == [0, *range(second, 30)]
    assert reader.bad == [files[0].name]
    again = EventLog(tmp_path, RUN)
    assert again.frames == 30
    again.close()


@pytest.mark.parametrize("frame", [0, 1, 5])
def test_a_flipped_bit_in_the_last_file_removes_nothing(tmp_path: Path, frame: int) -> None:
    """Reading stops there; a new writer leaves the bytes and goes on in a file of its own."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(10))
    log.close()
    (path,) = _files(tmp_path)
    data = bytearray(path.read_bytes())
    at = 40 + sum(36 + len(_batch(n)) for n in range(frame)) + 36
    data[at] ^= 1
    path.write_bytes(data)
    _right(_frames(tmp_path), range(frame))
    log = EventLog(tmp_path, RUN)
    assert log.frames == frame
    assert log.append(P, 50, 1, b"new") == frame
    log.close()
    kept = [p for p in _files(tmp_path) if p.read_bytes() == bytes(data)]
    assert len(kept) == 1
    with closing(Reader(tmp_path)) as reader:
        frames = list(reader)
    _right(frames[:frame], range(frame))
    assert [f.batch for f in frames[frame:]] == [b"new"]
    assert reader.bad == ([] if frame == 0 else [path.name])


def test_a_cursor_reads_from_any_frame(tmp_path: Path, small: None) -> None:
    """In the first file, at a turn, at the end; compressed files too."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(40))
    log.close()
    for sealed in (False, True):
        if sealed:
            compress(tmp_path)
            assert all(p.name.endswith(".log.gz") for p in _files(tmp_path))
        for frame in range(42):
            _right(_frames(tmp_path, frame), range(frame, 40))
        with closing(Reader(tmp_path)) as reader:
            assert [f.number for f in reader.read(7)] == list(range(7))


def test_a_sealed_log_can_be_continued(tmp_path: Path, small: None) -> None:
    """Compressed files count; what comes later is in a file behind them."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(20))
    log.close()
    compress(tmp_path)
    log = EventLog(tmp_path, RUN)
    assert (log.frames, log.next) == (20, {P: 10, Q: 10})
    _write(log, range(20, 40))
    log.close()
    _right(_frames(tmp_path), range(40))
    compress(tmp_path)
    _right(_frames(tmp_path), range(40))


def test_a_crash_between_compressing_and_removing_shows_no_frame_twice(
    tmp_path: Path, small: None
) -> None:
    """Both files there: the compressed one stands for its original; half of one is none."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(20))
    log.close()
    originals = {p: p.read_bytes() for p in _files(tmp_path)}
    compress(tmp_path)
    for path, data in originals.items():
        path.write_bytes(data)
    (tmp_path / "000000000000.log.gz.tmp").write_bytes(b"half")
    _right(_frames(tmp_path), range(20))


def test_a_damaged_compressed_file_is_a_bad_frame(tmp_path: Path, small: None) -> None:
    """Cut or changed anywhere: true frames only, later files are read, nothing raises."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(30))
    log.close()
    compress(tmp_path)
    files = _files(tmp_path)
    data, second = files[0].read_bytes(), int(files[1].name[:12])
    told = 0
    for size in range(60, len(data) - 8, 5):
        files[0].write_bytes(data[:size])
        with closing(Reader(tmp_path)) as reader:
            frames = list(reader)
        numbers = [f.number for f in frames]
        assert numbers[-(30 - second) :] == list(range(second, 30))
        assert all(f.batch == _batch(f.number) for f in frames)
        told += reader.bad == [files[0].name]
    assert told


def test_readers_beside_a_writer_see_every_frame_once(tmp_path: Path, small: None) -> None:
    """Two readers poll while files turn; none misses a frame that came just before a turn."""
    log = EventLog(tmp_path, RUN)
    done = threading.Event()
    found: list[list[Frame]] = [[], []]
    bad: list[str] = []

    def read(n: int) -> None:
        reader = Reader(tmp_path)
        last = False
        while not last:
            last = done.is_set()
            found[n] += list(reader)
        bad.extend(reader.bad)
        reader.close()

    threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    _write(log, range(4000))
    log.close()
    done.set()
    for thread in threads:
        thread.join()
    for frames in found:
        _right(frames, range(4000))
    assert bad == []


def test_a_turn_right_after_a_look_skips_nothing(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames written between finding the end and finding the next file are read."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(2))
    reader = Reader(tmp_path)
    later = Reader._later
    written = False

    def late(self: Reader) -> Path | None:
        nonlocal written
        if not written:
            written = True
            _write(log, range(2, 40))
        return later(self)

    monkeypatch.setattr(Reader, "_later", late)
    _right(list(reader), range(40))
    assert reader.bad == []
    reader.close()
    log.close()


def test_a_full_disk_leaves_no_torn_frame_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append that fails half way raises, and the next one stands behind the last good one."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(3))
    whole = log._file

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(whole, name)

        def write(self, data: bytes) -> int:
            return whole.write(data[: len(data) // 2])

    monkeypatch.setattr(log, "_file", Full())
    with pytest.raises(OSError, match="disk is full"):
        log.append(P, 1, 1, b"x" * 100)
    monkeypatch.setattr(log, "_file", whole)
    assert log.frames == 3
    _write(log, range(3, 5))
    log.close()
    _right(_frames(tmp_path), range(5))


@pytest.mark.parametrize("fails", ["open", "header", "folder"])
def test_a_full_disk_at_a_turn_loses_nothing(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Where no next file can be begun the append raises; once there is room the log goes on."""
    log = EventLog(tmp_path, RUN)
    done = 0
    while log._size <= eventlog.SEGMENT:
        _write(log, range(done, done + 1))
        done += 1

    class Short:
        def __init__(self, path: Path, *_: object, **__: object) -> None:
            self._file = real(path, "xb", buffering=0)

        def write(self, data: bytes) -> int:
            return int(self._file.write(data[:7]))

        def close(self) -> None:
            self._file.close()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "disk is full")

    real = open
    with monkeypatch.context() as broken:
        if fails == "folder":
            broken.setattr(eventlog, "_sync_folder", full)
        else:
            broken.setattr(eventlog, "open", full if fails == "open" else Short, raising=False)
        for _ in range(3):
            with pytest.raises(OSError, match="disk is full"):
                log.append(P, done // 2, 1, _batch(done))
        log.sync()
    _write(log, range(done, done + 9))
    log.close()
    _right(_frames(tmp_path), range(done + 9))
    assert len(_files(tmp_path)) > 1


def test_a_new_file_is_in_its_folder_before_anything_is_synced(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not take the name of a file whose content was synced."""
    synced: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    log = EventLog(tmp_path / "events", RUN)
    assert synced == [str(tmp_path), str(tmp_path / "events")]
    _write(log, range(100))
    assert synced.count(str(tmp_path / "events")) == len(_files(tmp_path / "events")) > 2
    log.close()


def test_the_end_of_a_log_is_nobody_elses(tmp_path: Path) -> None:
    """Left to one producer others are told; ended, all are; closed, another writer may come."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(4))
    log.leave_to(P)
    with pytest.raises(Held):
        log.append(Q, 2, 1, _batch(4))
    assert log.append(P, 2, 1, _batch(5)) == 4
    log.finish()
    with pytest.raises(Held):
        log.append(P, 3, 1, _batch(7))
    assert log.sync() == log.synced == 5
    with pytest.raises(Held):
        EventLog(tmp_path, RUN)
    log.close()
    EventLog(tmp_path, RUN).close()


def test_a_log_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    """After an error nobody holds the lock."""
    (tmp_path / "000000000000.log").write_bytes(b"x" * 100)
    for _ in range(2):
        with pytest.raises(FormatError):
            EventLog(tmp_path, RUN)
    (tmp_path / "000000000000.log").unlink()
    EventLog(tmp_path, RUN).close()


def test_compressing_stops_when_somebody_wants_to_write(tmp_path: Path, small: None) -> None:
    """What is compressed stays so, the rest is as it was, and nothing is left over."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(60))
    log.close()
    before = len(_files(tmp_path))
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    compress(tmp_path, stop)
    after = _files(tmp_path)
    assert len(after) == before
    assert [path.suffix for path in after].count(".gz") == 2
    assert not list(tmp_path.glob("*.tmp"))
    log = EventLog(tmp_path, RUN)
    _write(log, range(60, 70))
    log.close()
    compress(tmp_path)
    _right(_frames(tmp_path), range(70))


def test_threads_append_whole_frames(tmp_path: Path, small: None) -> None:
    """Numbers are given once each, and every frame says its own."""
    log = EventLog(tmp_path, RUN)
    numbers: list[tuple[int, bytes]] = []

    def work(n: int) -> None:
        for k in range(200):
            batch = os.urandom(20)
            numbers.append((log.append(bytes([n]) * 16, k, 1, batch), batch))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert dict(numbers) == {f.number: f.batch for f in _frames(tmp_path)}
    assert sorted(n for n, _ in numbers) == list(range(800))


def test_what_is_no_event_log_is_refused_by_name(tmp_path: Path) -> None:
    """The error names the file; an empty folder is an empty log."""
    assert _frames(tmp_path / "none") == []
    (tmp_path / "000000000000.log").write_bytes(b"x" * 100)
    with pytest.raises(FormatError, match=r"000000000000\.log"):
        _frames(tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["open", "packed"])
def test_who_appends_nothing_changes_nothing(tmp_path: Path, packed: bool) -> None:
    """Opening and closing a log leaves every byte of it, also where its files are compressed."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(5))
    log.close()
    if packed:
        compress(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    EventLog(tmp_path, RUN).close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_who_writes_is_named(tmp_path: Path) -> None:
    """A second writer is told which process has the log."""
    log = EventLog(tmp_path, RUN)
    with pytest.raises(InUse, match=f"pid {os.getpid()}"):
        EventLog(tmp_path, RUN)
    log.close()
    EventLog(tmp_path, RUN).close()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_turn_that_finds_no_room_is_made_later(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next file that cannot be begun leaves nothing in the way, and takes the next frame."""
    log = EventLog(tmp_path, RUN)
    written = 0
    while log._size <= eventlog.SEGMENT:
        _write(log, range(written, written + 1))
        written += 1
    with monkeypatch.context() as patch:
        patch.setattr(eventlog, "_write", _full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                log.append(P, 99, 1, b"x")
        assert len(_files(tmp_path)) == 1
        assert log.sync() == written
    _write(log, range(written, written + 5))
    log.close()
    _right(_frames(tmp_path), range(written + 5))
    assert len(_files(tmp_path)) == 2


def test_what_a_failed_sync_left_in_doubt_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames since the last sync go, with their sequences; those before it stay."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(4))
    log.sync()
    _write(log, range(4, 7))
    log.append(b"n" * 16, 0, 1, b"somebody new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _full)
        with pytest.raises(OSError, match="No space"):
            log.sync()
    assert (log.frames, log.synced, log.taken_back) == (4, 4, 1)
    assert log.next == {P: 2, Q: 2}
    _right(_frames(tmp_path), range(4))
    _write(log, range(4, 6))
    assert log.sync() == 6
    log.close()
    _right(_frames(tmp_path), range(6))


def test_frames_that_were_taken_back_leave_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on behind them without knowing is refused; what is safe can be asked."""
    log = EventLog(tmp_path, RUN)
    log.append(P, 0, 2, b"safe", after=0)
    log.sync()
    log.append(P, 2, 2, b"in doubt", after=2)
    assert (log.next[P], log.safe(P), log.safe(Q)) == (4, 2, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _full)
        with pytest.raises(OSError, match="No space"):
            log.sync()
    with pytest.raises(OSError, match="could not be synced"):
        log.append(P, 4, 1, b"behind", after=4)
    log.append(P, 2, 2, b"again", after=2)
    log.sync()
    assert log.safe(P) == 4
    log.close()
    assert [f.batch for f in _frames(tmp_path)] == [b"safe", b"again"]


@pytest.mark.parametrize("why", ["full", "stopped"])
def test_a_log_that_cannot_be_compressed_stays_as_it_was(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """On a full disk, or when somebody wants to go on: no frame is gone, no half file left."""
    log = EventLog(tmp_path, RUN)
    _write(log, range(30))
    log.close()
    before = _files(tmp_path)
    if why == "full":
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _full)
            with pytest.raises(OSError, match="No space"):
                compress(tmp_path)
    else:
        compress(tmp_path, lambda: True)
    assert _files(tmp_path) == before
    _right(_frames(tmp_path), range(30))
    compress(tmp_path)
    assert all(path.suffix == ".gz" for path in _files(tmp_path))
    _right(_frames(tmp_path), range(30))
