"""What a run came from: command line, entry script and commit, packages, machine.

Gathered on the sender thread, from files only: no git is run, no package is imported.
Secrets on the command line are never recorded.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml import handover, process
from prov4ml.recorder import Recorder

__all__ = ["Commit", "commit_of", "entry_script", "machine", "packages", "record", "redact"]

_WORDS: Final = r"(?:token|key|password|passwd|passphrase|secret|credential)"
_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_VALUE: Final = re.compile(rf"{_WORDS}[\w.\-\[\]]*[\"']?\s*[=:](?!:)(?!//)", re.IGNORECASE)
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s]+@")


def record(to: Recorder) -> None:
    """On the sender thread: what the run came from."""
    to.append(ev.Command(to.now(), redact(command_line()), os.getcwd()))
    script = entry_script()
    commit = commit_of(script.parent if script is not None else Path.cwd())
    name = script
    if script is not None and commit is not None and script.is_relative_to(commit.root):
        name = script.relative_to(commit.root)
    to.append(
        ev.Source(
            to.now(),
            None if name is None else str(name),
            commit.remote if commit else None,
            commit.commit if commit else None,
            commit.branch if commit else None,
        )
    )
    to.append(ev.Host(to.now(), process.hostname(), dict(machine())))
    found = packages(sys.path)
    n = to.number()
    text = "".join(f"{line}\n" for line in found)
    handed = handover.hand_over_bytes(text.encode(), to.incoming, to.file(n), "text/plain")
    facts: dict[str, ev.Scalar] = {"python": python(), "packages": len(found)}
    title = f"Python {python()}, {len(found)} packages"
    to.occurrence(n, "environment", title, handed, use="used", facts=facts)


def redact(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line without secrets.

    The value of an option whose name holds token, key, password, passphrase, secret or credential
    becomes ``***`` (``--api-key x``), so does all of a word behind such a name and ``=`` or ``:``
    (``--api-key=x``, ``--set=db.password=x``, ``{"token": ...}``) and ``user:pass@`` in an URL.
    """
    clean: list[str] = []
    hide_next = False
    for word in argv:
        if hide_next and not word.startswith("--"):
            clean.append("***")
            hide_next = False
            continue
        hide_next = False
        word = _URL.sub(r"\g<scheme>***@", word)
        if found := _VALUE.search(word):
            word = f"{word[: found.end()]}***"
        elif word.startswith("-") and "=" not in word:
            hide_next = _SECRET.search(word) is not None
        clean.append(word)
    return tuple(clean)


def command_line() -> tuple[str, ...]:
    """The command as it was typed, interpreter included."""
    argv = list(getattr(sys, "orig_argv", sys.argv))
    if argv:
        argv[0] = os.path.basename(argv[0])
    return tuple(argv)


def entry_script() -> Path | None:
    """The file of ``__main__``, if it has one."""
    name = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(name).absolute() if name else None


class Commit(msgspec.Struct, frozen=True):
    """Where a working tree stands."""

    root: Path
    commit: str | None
    branch: str | None
    remote: str | None


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
    url = found.get('[remote "origin"]') or next(iter(found.values()))
    return _URL.sub(r"\g<scheme>***@", url)


def packages(paths: Iterable[str]) -> list[str]:
    """Sorted ``name==version`` of everything installed on ``paths``, from folder names only."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            names = os.listdir(path or ".")
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info") and "-" in stem:
                package, version = stem.split("-")[:2]
                found.setdefault(package.replace("_", "-").lower(), version)
    return sorted(f"{package}=={version}" for package, version in found.items())


def machine() -> dict[str, str | int]:
    """Operating system, architecture, cores and memory (bytes) of this node."""
    name = os.uname()
    facts: dict[str, str | int] = {
        "os": f"{name.sysname} {name.release}",
        "machine": name.machine,
        "cores": os.cpu_count() or 1,
    }
    try:
        facts["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        pass
    return facts


def python() -> str:
    return platform.python_version()
