"""Files and other things that a run made or used: each an occurrence, its bytes safe on return."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from prov4ml import contents, handover, hot, paths, redaction
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference
from prov4ml.talk import log, short

__all__ = ["Place", "address", "log_artifact", "log_artifacts", "log_file", "log_path", "place"]

_MANY: Final = 10_000  # files of a folder that are told one by one


class Place(NamedTuple):
    """Where an occurrence belongs: what calls say beside the thing itself, checked."""

    at: tuple[str, ...]
    step: int | None = None
    epoch: int | None = None
    use: str = ""
    derived: tuple[int | str, ...] = ()
    tuned: int = 0
    activity: int = 0


def place(
    to: Recorder,
    context: Any,
    step: Any = None,
    epoch: Any = None,
    *,
    use: str = "",
    derived_from: Derivable = None,
    model: str | None = None,
) -> Place:
    """Check what a call says of where something belongs; ``model``: see ``References.resolve``."""
    derived, tuned = to.references.resolve(derived_from, model)
    return Place(
        hot.current_path(context),
        None if step is None else hot.whole("step", step),
        None if epoch is None else hot.whole("epoch", epoch),
        use,
        derived,
        tuned,
    )


def log_artifact(
    to: Recorder,
    artifact_name: Any,
    artifact_path: Any,
    context: str | None,
    step: int | None,
    *,
    is_input: bool,
    copy: bool,
    derived_from: Derivable,
    text: str | None = None,
    epoch: int | None = None,
) -> Reference:
    """See ``Run.log_artifact``."""
    if artifact_path is None and text is None:
        if not paths.is_path(artifact_name):
            raise TypeError(
                f"artifact_name must be a name or a path, not {type(artifact_name).__name__}"
            )
        artifact_path = os.fsdecode(artifact_name)
        artifact_name = _name_of(artifact_path)
    elif artifact_path is not None and text is not None:
        raise UsageError("give artifact_path or text, not both")
    if isinstance(artifact_name, os.PathLike):
        artifact_name = paths.plain(os.fsdecode(artifact_name))
    name = hot.text("artifact_name", artifact_name)
    use = "used" if is_input else "generated"
    where = place(to, context, step, epoch, use=use, derived_from=derived_from)
    if text is not None:
        return _write(to, name, contents.of_text(name, text), where)
    if paths.is_path(artifact_path):
        return log_path(to, "artifact", name, artifact_path, where, copy=copy)
    made = contents.writer(name, artifact_path)
    if made is None:
        raise TypeError(
            "artifact_path must be a path, a URL, bytes, a dict, a figure, an array or an open "
            f"file, not {type(artifact_path).__name__}; a text is text=..."
        )
    return _write(to, name, made, where)


def log_artifacts(
    to: Recorder,
    artifacts_dir: Any,
    artifact_name: str | None,
    context: str | None,
    step: int | None,
    *,
    is_input: bool,
    copy: bool,
    derived_from: Derivable,
) -> Reference:
    """See ``Run.log_artifacts``."""
    if not paths.is_path(artifacts_dir):
        raise TypeError(f"artifacts_dir must be a path, not {type(artifacts_dir).__name__}")
    text = os.fsdecode(artifacts_dir)
    if not paths.is_folder(Path(text)):
        raise UsageError(f"artifacts_dir: there is no folder {short(paths.plain(text))!r}")
    return log_artifact(
        to,
        _name_of(text) if artifact_name is None else artifact_name,
        text,
        context,
        step,
        is_input=is_input,
        copy=copy,
        derived_from=derived_from,
    )


def log_path(
    to: Recorder,
    kind: str,
    name: str,
    given: str | os.PathLike[str],
    where: Place,
    *,
    copy: bool,
    copy_folders: bool = True,
    argument: str = "artifact_path",
    facts: dict[str, ev.Scalar] | None = None,
) -> Reference:
    """An occurrence of what a path, a pattern or a URL stands for.

    ``copy_folders``: whether folders and patterns are copied too.  ``argument`` is what to call
    the path in errors.
    """
    text = os.fsdecode(given)
    if not text:
        raise UsageError(f"{argument} must not be empty")
    if paths.is_url(text):
        link = address(text, argument)
        handed = handover.Handed(media_type=handover.media_type(text.partition("?")[0]))
        told = {"remote": True, **(facts or {})}
        return _occurrence(to, to.number(), kind, name, handed, where, told, link)
    if text.startswith("file:///"):
        text = os.fsdecode(unquote_to_bytes(text.removeprefix("file://")))
    path = Path(text)
    if paths.is_folder(path):
        walk = paths.Walk(path)
        return _folder(to, kind, name, walk, walk.files(), where, copy and copy_folders, facts)
    if paths.is_pattern(text):
        walk = paths.matching(text)
        if not paths.is_folder(walk.folder):
            raise UsageError(f"{argument}: there is no folder {short(str(walk.folder))!r}")
        found = walk.files()
        first = next(found, None)
        if first is None:
            raise UsageError(f"{argument}: no file matches {short(paths.plain(text))!r}")
        told = {"pattern": paths.plain(text), **(facts or {})}
        files = _from(first, found)
        return _folder(to, kind, name, walk, files, where, copy and copy_folders, told)
    return log_file(to, kind, name, path, where, copy=copy, argument=argument, facts=facts)


def address(text: str, argument: str = "url") -> str:
    """A URL as it is recorded: without passwords and keys."""
    return redaction.url(hot.text(argument, text))


def log_file(
    to: Recorder,
    kind: str,
    name: str,
    path: Path,
    where: Place,
    *,
    copy: bool = True,
    argument: str = "artifact_path",
    facts: dict[str, ev.Scalar] | None = None,
    folder: int = 0,
) -> Reference:
    """An occurrence of a file, copied or (``copy=False``) only referred to.

    Raises ``UsageError`` for a file that cannot be read; a full disk is a warning.
    """
    n = to.number()
    if not to.keeps:
        with handover.regular(path, argument):
            handed = handover.Handed()
    elif copy:
        handed = to.hand_over(
            paths.plain(str(path)),
            n,
            lambda incoming, file: handover.hand_over_file(path, incoming, file, argument),
        )
    else:
        handed = handover.refer(path, argument)
    location = paths.located(path, absolute=not copy)
    return _occurrence(to, n, kind, name, handed, where, facts, location, folder)


_File = tuple[str, Path, os.stat_result]


def _folder(
    to: Recorder,
    kind: str,
    name: str,
    walk: paths.Walk,
    files: Iterator[_File],
    where: Place,
    copy: bool,
    facts: dict[str, ev.Scalar] | None,
) -> Reference:
    """An occurrence of a folder, and one of each of its files; or, of very many, a list of them."""
    few = list(islice(files, _MANY + 1))
    n = to.number()
    location = paths.located(walk.folder, absolute=not copy)
    told: dict[str, ev.Scalar] = dict(facts or {})
    handed = handover.Handed()
    if len(few) > _MANY:
        if copy:
            raise UsageError(
                f"the folder {short(paths.plain(str(walk.folder)))!r} has more than {_MANY:,} "
                "files: copy=False keeps a list of them"
            )
        listing = _Listing(few, files)
        handed = to.hand_over(location, n, listing.write)
        told.update(files=listing.count, total_size=listing.size, content="list of files")
        few = []
    else:
        told.update(files=len(few), total_size=sum(found.st_size for _, _, found in few))
    if walk.left_out:
        told.update(left_out=walk.left_out, left_out_first=walk.why)
        log.warning("%d left out of %s, first %s", walk.left_out, location, walk.why)
    reference = _occurrence(to, n, kind, name, handed, where, told, location)
    inner = where._replace(derived=(), tuned=0)
    for below, path, _ in few:
        try:
            inside = f"{name}/{paths.plain(below)}"
            log_file(to, "artifact", inside, path, inner, copy=copy, folder=n)
        except UsageError as error:
            log.warning("left out: %s", error)
    return reference


class _Listing:
    """Path, size and time of change of files, a line each: what stands for a very large folder."""

    def __init__(self, few: list[_File], rest: Iterator[_File]) -> None:
        self._few = few
        self._rest = rest
        self.count = self.size = 0

    def write(self, incoming: Path, file: str) -> handover.Handed:
        def fill(copy: int) -> None:
            with open(copy, "wb", closefd=False) as out:
                for files in (self._few, self._rest):
                    for below, _, found in files:
                        self.count += 1
                        self.size += found.st_size
                        name = below.encode("unicode_escape").decode()  # a line is a file
                        line = f"{name}\t{found.st_size}\t{found.st_mtime_ns}\n"
                        out.write(line.encode())

        size = handover.written(incoming, file, fill)
        return handover.Handed(file, size, None, "text/tab-separated-values")


def _write(to: Recorder, name: str, writer: contents.Writer, where: Place) -> Reference:
    n = to.number()
    return _occurrence(to, n, "artifact", name, to.hand_over(name, n, writer), where)


def _occurrence(
    to: Recorder,
    n: int,
    kind: str,
    name: str,
    handed: handover.Handed,
    where: Place,
    facts: dict[str, ev.Scalar] | None = None,
    location: str | None = None,
    folder: int = 0,
) -> Reference:
    return to.occurrence(
        n, kind, name, handed, location=location, facts=facts, folder=folder, **where._asdict()
    )


def _name_of(path: str) -> str:
    """What a path is called when nobody says: its last part, without what follows a ``?``."""
    if paths.is_url(path):
        link = address(path)
        return link.partition("?")[0].rstrip("/").rpartition("/")[2] or link
    return paths.plain(os.path.basename(path.rstrip("/")) or path)


def _from(first: _File, rest: Iterator[_File]) -> Iterator[_File]:
    yield first
    yield from rest
