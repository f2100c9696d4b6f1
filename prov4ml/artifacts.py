"""Files that a run made or used: each an occurrence, its bytes safe when the call returns."""

from __future__ import annotations

import os
from pathlib import Path

from prov4ml import events as ev
from prov4ml import handover, hot
from prov4ml.errors import UsageError
from prov4ml.recorder import NoRecorder, Recorder
from prov4ml.talk import log

__all__ = ["log_artifact", "log_file"]


def log_artifact(
    to: Recorder,
    artifact_name: str | os.PathLike[str],
    artifact_path: str | os.PathLike[str] | None,
    context: str | None,
    step: int | None,
    *,
    is_input: bool,
    copy: bool,
) -> None:
    """See ``Run.log_artifact``."""
    if artifact_path is None:
        artifact_path = artifact_name
        artifact_name = os.path.basename(os.fspath(artifact_path)) or str(artifact_path)
    if not isinstance(artifact_path, (str, os.PathLike)):
        raise TypeError(f"artifact_path must be a path, not {type(artifact_path).__name__}")
    name = hot.text("artifact_name", os.fspath(artifact_name))
    at = hot.current_path(context)
    step = None if step is None else hot.whole("step", step)
    use = "used" if is_input else "generated"
    path = Path(artifact_path)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            inner = f"{name}/{file.relative_to(path)}"
            log_file(to, "artifact", inner, file, at=at, step=step, use=use, copy=copy)
    elif path.is_file():
        log_file(to, "artifact", name, path, at=at, step=step, use=use, copy=copy)
    else:
        raise UsageError(f"artifact_path: there is no file {str(path)!r}")


def log_file(
    to: Recorder,
    kind: str,
    name: str,
    path: Path,
    *,
    at: tuple[str, ...],
    step: int | None = None,
    use: str,
    copy: bool = True,
    facts: dict[str, ev.Scalar] | None = None,
) -> int:
    """An occurrence of a file, copied or (``copy=False``) only referred to; gives its number.

    Raises ``UsageError`` for a file that cannot be read; a full disk is a warning.
    """
    n = to.number()
    if isinstance(to, NoRecorder):
        return n
    if not copy:
        status = path.stat()
        media = handover.media_type(path.name)
        handed = handover.Handed("", status.st_size, status.st_mtime_ns, media)
    else:
        try:
            handed = handover.hand_over_file(path, to.incoming, to.file(n))
        except PermissionError as error:
            raise UsageError(f"cannot read {str(path)!r}: {error}") from None
        except OSError as error:
            log.warning("%s is not kept: %s", path, error)
            handed = handover.Handed("", 0, None, None)
    place = str(path) if copy else str(path.absolute())
    to.occurrence(n, kind, name, handed, location=place, at=at, step=step, use=use, facts=facts)
    return n
