"""The working tree that code was taken from: its commit from files, its changes from git.

``commit_of`` reads ``.git`` and starts nothing.  ``changes`` runs git, as steps between which its
caller does other work; nothing waits for it.  What git says is bounded in time and size, and no
program that the tree's settings name is run for it but the filters that git itself needs.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import paths, redaction

__all__ = ["Changes", "Commit", "changes", "commit_of"]

_TIME: Final = 10.0  # s that git may take for one answer
_NAMES: Final = 4 << 20  # bytes of names of changed files
_DIFF: Final = 8 << 20  # bytes of a diff that are kept
_EMPTY: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's name of the empty tree
_PRIVATE: Final = (
    *(".env", ".env.*", ".netrc", ".npmrc", ".pypirc", "id_rsa*", "id_ed25519*", "*.pem", "*.key"),
    *("*.p12", "*.pfx", "credentials", "credentials.*", "secrets.*", "token", "token.*"),
)
"""Names of files whose changes never stand in the diff."""


class Commit(msgspec.Struct, frozen=True):
    """Where a working tree stands."""

    root: Path
    commit: str | None
    branch: str | None
    remote: str | None


class Changes(msgspec.Struct):
    """What git says of a working tree against its commit.

    ``trouble``: why it says nothing.  ``left_out``: changed files that do not stand in ``diff``;
    ``private``: names of those of them that may hold secrets.
    """

    commit: str | None = None
    branch: str | None = None
    changed: list[str] = msgspec.field(default_factory=list)
    untracked: list[str] = msgspec.field(default_factory=list)  # a folder ends in "/"
    cut: bool = False  # there were more names
    diff: bytes = b""
    left_out: int = 0
    private: list[str] = msgspec.field(default_factory=list)
    trouble: str = ""

    def tracks(self, path: str) -> bool:
        """Whether a file (relative to the tree) is one that git knows."""
        return not any(
            path == name or (name.endswith("/") and path.startswith(name))
            for name in self.untracked
        )


def changes(root: Path) -> Generator[None, None, Changes]:
    """Ask git, in steps; the result is what the generator returns."""
    found = Changes()
    words = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal")
    told = yield from _git(root, _NAMES, *words)
    if isinstance(told, str):
        found.trouble = told
        return found
    data, found.cut = told
    _names(found, data)
    found.private = [name for name in found.changed if _is_private(name)]
    if len(found.private) == len(found.changed):
        found.left_out = len(found.private)
        return found
    excluded = [f":(exclude,top,literal){name}" for name in found.private[:1000]]
    told = yield from _git(
        root,
        _DIFF,
        *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--full-index", "--binary"),
        found.commit or _EMPTY,
        *("--", ":/", *excluded),
    )
    if isinstance(told, str):
        found.trouble = told
        found.left_out = len(found.changed)
        return found
    found.diff, cut = told
    if cut:  # at the last file that is whole
        found.diff = found.diff[: found.diff.rfind(b"\ndiff --git ") + 1]
    files = len(re.findall(rb"^diff --git ", found.diff, re.MULTILINE))
    found.left_out = max(len(found.changed) - files, len(found.private), int(cut))
    return found


def _names(found: Changes, data: bytes) -> None:
    """Read ``git status --porcelain=v2 --branch -z``; its documentation has the fields."""
    entries = iter(data.split(b"\0"))
    for entry in entries:
        text = paths.plain(os.fsdecode(entry))
        if text.startswith("# branch.oid "):
            oid = text.rpartition(" ")[2]
            found.commit = oid if re.fullmatch("[0-9a-f]{40,64}", oid) else None
        elif text.startswith("# branch.head "):
            found.branch = text.removeprefix("# branch.head ")
        elif text.startswith("1 "):
            found.changed.append(text.split(" ", 8)[-1])
        elif text.startswith("2 "):
            found.changed.append(text.split(" ", 9)[-1])
            next(entries, None)  # where it was before
        elif text.startswith("u "):
            found.changed.append(text.split(" ", 10)[-1])
        elif text.startswith("? "):
            found.untracked.append(text[2:])


def _is_private(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    return any(fnmatch.fnmatch(last, pattern) for pattern in _PRIVATE)


def _git(root: Path, most: int, *words: str) -> Generator[None, None, tuple[bytes, bool] | str]:
    """(what git says, whether it was cut), or why it says nothing."""
    try:
        git = subprocess.Popen(
            [
                "git",
                "-C",
                str(root),
                "-c",
                "core.fsmonitor=false",
                "-c",
                "core.quotePath=false",
                *words,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
    except OSError as error:
        return f"git cannot be run: {error.strerror or error}"
    assert git.stdout is not None
    until = time.monotonic() + _TIME
    data = bytearray()
    try:
        os.set_blocking(git.stdout.fileno(), False)
        for piece in _pieces(git.stdout.fileno()):
            if piece is None:
                if time.monotonic() > until:
                    return f"git {words[0]} took longer than {_TIME:.0f} s"
                yield
            else:
                data += piece
                if len(data) > most:
                    return bytes(data[:most]), True
        while git.poll() is None:
            if time.monotonic() > until:
                return f"git {words[0]} took longer than {_TIME:.0f} s"
            yield
        if git.returncode:
            return f"git {words[0]} failed ({git.returncode})"
        return bytes(data), False
    finally:
        git.kill()
        git.stdout.close()
        git.wait()


def _environment() -> dict[str, str]:
    """Ours, without what would make git look elsewhere, or ask, or write."""
    misleading = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF")
    kept = {name: value for name, value in os.environ.items() if name not in misleading}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _pieces(fd: int) -> Iterator[bytes | None]:
    """What comes through a pipe; None where nothing has come yet."""
    while True:
        try:
            piece = os.read(fd, 1 << 16)
        except BlockingIOError:
            yield None
            continue
        if not piece:
            return
        yield piece


# ------------------------------------------------------------------------ without git


def commit_of(path: Path) -> Commit | None:
    """Commit, branch and remote of the working tree around ``path``, read from ``.git``."""
    for folder in (path, *path.parents):
        git = folder / ".git"
        if git.is_dir():
            return _read_git(folder, git)
        if git.is_file():  # a worktree or submodule: "gitdir: <path>"
            text = git.read_text(errors="replace").strip()
            if text.startswith("gitdir:"):
                return _read_git(folder, (folder / text[7:].strip()).resolve())
    return None


def _read_git(root: Path, git: Path) -> Commit:
    common = git
    if (git / "commondir").is_file():
        common = (git / (git / "commondir").read_text().strip()).resolve()
    head = _text(git / "HEAD")
    branch: str | None = None
    commit: str | None = head or None
    if head.startswith("ref:"):
        ref = head[4:].strip()
        branch = ref.removeprefix("refs/heads/")
        commit = _text(git / ref) or _text(common / ref) or _packed(common, ref)
    return Commit(root, commit, branch, _remote(common))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _packed(common: Path, ref: str) -> str | None:
    for line in _text(common / "packed-refs").splitlines():
        value, _, name = line.partition(" ")
        if name == ref:
            return value
    return None


def _remote(common: Path) -> str | None:
    """URL of ``origin``, else of the first remote, without credentials."""
    found: dict[str, str] = {}
    section = ""
    for line in _text(common / "config").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section.startswith("[remote ") and line.replace(" ", "").startswith("url="):
            found.setdefault(section, line.partition("=")[2].strip())
    if not found:
        return None
    return redaction.url(found.get('[remote "origin"]') or next(iter(found.values())))
