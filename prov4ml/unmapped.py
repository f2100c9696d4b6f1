"""A segment that is written, not mapped: for a spool where a shared mapping is not safe.

On a network file system another host's look, a lost server or a full disk turn a store into a
mapped page into a stale page or a SIGBUS; ``pwrite`` gives an error that can be handled.  The
file is the same, byte for byte: the record is written first, then the commit word.

The bytes of the current segment are held in memory besides, until it is sealed.  So a write
that fails costs nothing but time: the next commit writes what is missing, and the sender ships
it from memory.  It never raises for a disk that fails after the file was made.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, ClassVar

from prov4ml import segment as seg

__all__ = ["Words", "Written", "create"]


class Words:
    """The header's words as the journal stores them: a commit writes the records before it."""

    __slots__ = ("_segment", "value")

    def __init__(self, segment: Written) -> None:
        self._segment = segment
        self.value = 0  # the commit word

    def __setitem__(self, index: int, value: int) -> None:
        if index != seg.COMMIT:
            self._segment.put(8 * index, struct.pack("<Q", value))
            return
        self.value = value
        self._segment.flush()

    def __getitem__(self, index: int) -> int:
        assert index == seg.COMMIT
        return self.value

    def release(self) -> None:
        """As a memoryview has it; nothing is held."""


class Written(seg.Segment):
    """A segment open for writing; ``buffer`` holds the whole file until it is sealed."""

    __slots__ = ("_behind", "_fd", "_safe")
    mapped: ClassVar[bool] = False

    def __init__(self, path: Path, fd: int, image: bytearray) -> None:
        self.path = path
        self.buffer: Any = image
        self.words: Any = Words(self)
        self.size = len(image) - len(seg.END)
        self.base = seg.HEADER
        self.first = 0
        self.cuts = []
        self._fd = fd
        self._safe = 0  # the commit word in the file
        self._behind = False  # the header in the file is not the one in memory

    def begin(self, first: int, table: bytes) -> None:
        seg.Segment.begin(self, first, table)
        self.put(0, bytes(self.buffer[: 8 * seg.COMMIT]))
        self.put(seg.HEADER, table)

    def cut(self, size: int, count: int) -> None:
        before = len(self.cuts)
        self.cuts.append((size, count))
        if before < seg.MAX_CUTS:
            self.put(seg.CUTS + 8 + 16 * before, struct.pack("<QQ", size, count))
            self.put(seg.CUTS, struct.pack("<Q", before + 1))

    def put(self, offset: int, data: bytes) -> None:
        """Change memory and file alike."""
        self.buffer[offset : offset + len(data)] = data
        try:
            self._write(offset, data)
        except OSError:
            self._behind = True

    def _write(self, offset: int, data: bytes) -> None:
        while data:
            done = os.pwrite(self._fd, data, offset)
            offset, data = offset + done, data[done:]

    def flush(self) -> bool:
        """Bring the file up to the commit word: records first.  False: the disk would not."""
        commit = self.words.value
        start, end = self.base + (self._safe & seg.MASK), self.base + (commit & seg.MASK)
        try:
            if self._behind:
                self._write(0, bytes(self.buffer[: 8 * seg.COMMIT]))
                self._write(seg.CUTS, bytes(self.buffer[seg.CUTS : self.base]))
                self._behind = False
            self._write(start, bytes(self.buffer[start:end]))
            self._write(8 * seg.COMMIT, struct.pack("<Q", commit))
        except OSError:
            return False
        self._safe = commit
        return True

    def settle(self, commit: int) -> None:
        """After an interrupt the file may say more than the journal: take it back."""
        if self.words.value != commit:
            self.words.value = commit
            if self._safe & seg.MASK > commit & seg.MASK:
                self._safe = commit
                self.flush()

    def seal(self) -> None:
        """Give the memory back, if the file has all of it."""
        if self.buffer is not None and (self._safe == self.words.value or self.flush()):
            fd, self._fd = self._fd, -1
            self.buffer = None
            os.close(fd)

    def read(self, start: int, end: int) -> bytes:
        image = self.buffer
        if image is not None:
            return bytes(image[self.base + start : self.base + end])
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, self.base + start)

    def close(self) -> None:
        if self.buffer is not None:
            self.flush()
            fd, self._fd = self._fd, -1
            self.buffer = None
            os.close(fd)


def create(path: Path, who: seg.Identity, size: int) -> Written:
    """Make a segment file of ``size`` bytes, without a mapping.  Raises ``OSError``."""
    image = bytearray(size)
    seg.write_header(image, who, size)
    new, fd = seg.begin_file(path, who)
    try:
        os.posix_fallocate(fd, 0, size)
        segment = Written(path, fd, image)
        segment._write(0, bytes(image[: seg.HEADER]))
        segment._write(size - len(seg.END), seg.END)
        segment.begin(0, b"")
        os.rename(new, path)
    except BaseException:
        os.close(fd)
        new.unlink(missing_ok=True)
        raise
    return segment
