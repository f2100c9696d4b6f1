"""What a run came from: command, entry script, commit and changes, packages, machine.

``record`` runs on the sender thread, in steps between which that thread ships; git is run only
there (``worktree``).  The calls that tell more of it (``log_source_code`` and its like) are here
too: none of them runs a program.  Secrets on the command line are never recorded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from prov4ml import artifacts, environment, handover, hot, paths, process, redaction, sources
from prov4ml import events as ev
from prov4ml.artifacts import Place
from prov4ml.environment import machine, python
from prov4ml.errors import UsageError
from prov4ml.recorder import Recorder
from prov4ml.references import Reference
from prov4ml.talk import log, short
from prov4ml.worktree import Changes, Commit, changes, commit_of

__all__ = [
    "Steps",
    "Wanted",
    "code",
    "command_line",
    "entry_script",
    "log_execution_command",
    "log_source_code",
    "machine",
    "python",
    "record",
    "surroundings",
]

Steps = Generator[None, None, None]
"""Work in steps: each ``yield`` is a moment at which it waits for another program."""

_LEFT_OUT: Final = 20  # names of files that are told
_USED: Final = Place((), use="used")


class Wanted(msgspec.Struct, frozen=True):
    """What of it is recorded: ``code``: commit, changes and sources; ``variables``: patterns of
    names; ``people``: also those that name the user."""

    code: bool = True
    variables: tuple[str, ...] = ()
    people: bool = True


def record(to: Recorder, wanted: Wanted) -> Steps:
    """All of it, in steps; a part that fails is a warning."""
    script = entry_script()
    folder = script.parent if script is not None else Path.cwd()
    commit = _tried("the commit", lambda: commit_of(folder)) if wanted.code else None
    parts: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("the command line", lambda: _command(to)),
        ("the source code", lambda: _source(to, script, commit)),
        ("the machine", lambda: _host(to)),
        ("the environment", lambda: _environment(to, wanted)),
    )
    for what, part in parts:
        _tried(what, part)
    if wanted.code and to.journal.who.rank == 0 and not to.journal.who.parent:
        yield from code(to)


def surroundings(to: Recorder, wanted: Wanted) -> Steps:
    """Machine and environment as they are now."""
    _tried("the machine", lambda: _host(to))
    _tried("the environment", lambda: _environment(to, wanted))
    yield from ()


def code(to: Recorder) -> Steps:
    """Changes and sources of the code, in steps: one process of a run does it for all."""
    script = entry_script()
    folder = script.parent if script is not None else Path.cwd()
    commit = commit_of(folder)
    found = Changes()
    if commit is not None:
        found = yield from changes(commit.root)
    facts: dict[str, ev.Scalar] = {}
    if commit is not None and not found.trouble:
        ours = os.path.relpath(to.incoming.parents[2], commit.root)  # what this run itself writes
        untracked = [n for n in found.untracked if not f"{n}/".startswith(f"{ours}/")]
        facts["dirty"] = bool(found.changed)
        facts["changed"] = len(found.changed)
        facts["untracked"] = len(untracked)
    elif found.trouble:
        facts["unknown"] = found.trouble
        log.info("what the working tree has changed is not recorded: %s", found.trouble)
    if found.diff or found.left_out:
        facts["diff"] = _diff(to, found)
    root = commit.root if commit is not None else folder
    git = commit is not None and not found.trouble
    files = sources.imported(Path(os.path.realpath(root)), _unknown(found) if git else _any)
    if files:
        facts["sources"] = _archive(to, files, "sources of imported modules").n
    if found.commit is not None and commit is not None:
        commit = Commit(commit.root, found.commit, found.branch or commit.branch, commit.remote)
    if facts:
        _source(to, script, commit, facts)


def _any(_: str) -> bool:
    return True


def _unknown(found: Changes) -> Callable[[str], bool]:
    return lambda name: name.startswith("outside/") or not found.tracks(name)


def _tried(what: str, part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # whatever it is, the training goes on
        log.warning("%s is not recorded: %s: %s", what, type(error).__name__, error)
        return None


# --------------------------------------------------------------------------------- parts


def _command(to: Recorder) -> None:
    if "command" not in to.given:
        to.append(ev.Command(to.now(), redaction.command_line(command_line()), _here()))


def _here() -> str:
    return paths.plain(os.getcwd())


def command_line() -> tuple[str, ...]:
    """The command as it was typed, interpreter included."""
    argv = [paths.plain(word) for word in getattr(sys, "orig_argv", sys.argv)]
    if argv:
        argv[0] = os.path.basename(argv[0])
    return tuple(argv)


def entry_script() -> Path | None:
    """The file of ``__main__``, if it has one."""
    name = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(name).absolute() if name else None


def _source(
    to: Recorder,
    script: Path | None,
    commit: Commit | None,
    facts: dict[str, ev.Scalar] | None = None,
) -> None:
    name = script
    if script is not None and commit is not None and script.is_relative_to(commit.root):
        name = script.relative_to(commit.root)
    to.append(
        ev.Source(
            to.now(),
            None if name is None else paths.plain(str(name)),
            commit.remote if commit else None,
            commit.commit if commit else None,
            commit.branch if commit else None,
            facts or {},
        )
    )


def _host(to: Recorder) -> None:
    to.append(ev.Host(to.now(), process.hostname(), {**machine(), **environment.gpus()}))


def _environment(to: Recorder, wanted: Wanted) -> None:
    found = environment.packages(sys.path)
    n = to.number()
    data = "".join(f"{line}\n" for line in found).encode()
    title = f"Python {python()}, {len(found)} packages"
    facts: dict[str, ev.Scalar] = {"python": python(), "packages": len(found)}
    facts |= environment.cuda() | environment.container(os.environ)
    facts |= environment.variables(os.environ, wanted.variables, people=wanted.people)
    handed = to.hand_over(title, n, lambda i, f: handover.hand_over_bytes(data, i, f, "text/plain"))
    to.occurrence(n, "environment", title, handed, use="used", facts=facts)


def _diff(to: Recorder, found: Changes) -> int:
    """The number of the diff's occurrence."""
    n = to.number()
    facts: dict[str, ev.Scalar] = {"changed": len(found.changed), "left_out": found.left_out}
    if found.private:
        facts["private"] = ", ".join(found.private[:_LEFT_OUT])
    handed = to.hand_over(
        "the diff", n, lambda i, f: handover.hand_over_bytes(found.diff, i, f, "text/x-diff")
    )
    to.occurrence(n, "diff", "changes.diff", handed, use="used", facts=facts)
    return n


def _archive(to: Recorder, files: Sequence[tuple[str, Path]], title: str) -> Reference:
    n = to.number()
    made = sources.archive(files)
    facts: dict[str, ev.Scalar] = {"files": made.files, "left_out": made.left_out}
    handed = to.hand_over(
        title, n, lambda i, f: handover.hand_over_bytes(made.data, i, f, "application/zip")
    )
    return to.occurrence(n, "source", title, handed, use="used", facts=facts)


# --------------------------------------------------------------------------------- calls


def log_execution_command(to: Recorder, cmd: Any, path: Any) -> None:
    """See ``Run.log_execution_command``."""
    if cmd is None and path is not None:
        raise UsageError("path: there is no cmd before it")
    if cmd is None:
        words = command_line()
    elif isinstance(cmd, str):
        import shlex

        try:
            words = tuple(shlex.split(hot.text("cmd", cmd)))
        except ValueError:  # quotes that do not close
            words = (hot.text("cmd", cmd),)
    elif isinstance(cmd, (list, tuple)) and cmd:
        words = tuple(hot.text("cmd", word) for word in cmd)
    else:
        raise TypeError(f"cmd must be a string or a list of strings, not {type(cmd).__name__}")
    if path is not None:
        if not paths.is_path(path):
            raise TypeError(f"path must be a path, not {type(path).__name__}")
        words = (*words, hot.text("path", paths.plain(os.fsdecode(path))))
    to.given.add("command")
    to.append(ev.Command(to.now(), redaction.command_line(words), _here()))


def log_source_code(to: Recorder, path: Any) -> Reference:
    """See ``Run.log_source_code``; ``path`` is not None."""
    if not paths.is_path(path):
        raise TypeError(f"path must be a path, not {type(path).__name__}")
    text = os.fsdecode(path)
    name = paths.plain(os.path.basename(text.rstrip("/")) or text)
    if not paths.is_url(text) and paths.is_folder(Path(text)):
        files = sources.in_folder(Path(text))
        if not files:
            raise UsageError(f"path: the folder {short(paths.plain(text))!r} holds no source files")
        if not to.keeps:
            return to.references.made(to.number(), name, "source")
        return _archive(to, files, f"sources in {name}")
    return artifacts.log_path(
        to, "source", hot.text("path", name), text, _USED, copy=True, argument="path"
    )
