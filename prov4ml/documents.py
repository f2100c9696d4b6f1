"""Document sinks to files, and the manifest ``run.json``: what is known of a run, written whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from prov4ml import delivery, ends, model, overview, participants, sink
from prov4ml import events as ev
from prov4ml.aside import Aside, Signs
from prov4ml.errors import no_room
from prov4ml.producer import Producer
from prov4ml.provdm import Document, iso
from prov4ml.state import RunState

__all__ = [
    "Written",
    "file_name",
    "manifest",
    "read_manifest",
    "render",
    "write",
]


class Written(msgspec.Struct, frozen=True):
    """What became of one sink's document."""

    sink: str
    path: str  # relative to the run directory
    size: int | None  # bytes; None when it failed
    error: str | None = None
    starved: bool = False  # it failed because a disk is full


def document(of: RunState) -> Document:
    """The document that sinks render: a pure function of the fold."""
    return model.document(of, overview.picture(of))


def file_name(kind: sink.SinkType, options: Mapping[str, Any]) -> str:
    """``prov.<suffix>`` or the option ``path``, relative to the run directory."""
    return str(options.get("path") or f"prov.{kind.suffix}")


def render(
    of: Document, name: str, options: Mapping[str, Any], directory: Path
) -> tuple[Path, int]:
    """Write one document.  Raises whatever the sink raises, and leaves an older file alone."""
    kind = sink.load(name)
    own = {key: value for key, value in options.items() if key != "path"}
    path = directory / file_name(kind, options)
    return path, sink.write_atomically(path, kind(**own).render(of))


def write(of: RunState, directory: Path, aside: Aside) -> list[Written]:
    """Write the documents of a run; a sink that fails or hangs stops nobody."""
    chosen, options = delivery.sinks(of)
    shown = document(of)
    results: list[Written] = []
    for name in chosen:
        try:
            kind = aside.call(name, partial(sink.load, name))
            if sink.is_stream(kind):
                continue
            given = options.get(name, {})
            path = directory / file_name(kind, given)
            size = sink.write_atomically(path, aside.parts(name, _rendering(kind, given, shown)))
        except Exception as error:  # a sink may raise anything
            text = f"{type(error).__name__}: {error}"
            results.append(Written(name, "", None, text, no_room(error)))
        else:
            results.append(Written(name, path.relative_to(directory).as_posix(), size))
    return results


def _rendering(
    kind: sink.SinkType, options: Mapping[str, Any], of: Document
) -> Callable[[Signs], Iterator[bytes]]:
    """One rendering; each statement that the sink takes is a sign of life."""
    own = {key: value for key, value in options.items() if key != "path"}

    def work(signs: Signs) -> Iterator[bytes]:
        watched = structs.replace(of, statements=lambda: signs.each(of.statements()))
        parts: Iterator[bytes] = kind(**own).render(watched)
        return parts

    return work


def manifest(of: RunState, documents: Iterable[Written], *, closed: bool = True) -> dict[str, Any]:
    """What ``run.json`` holds, from the fold and what was written.

    ``closed``: nobody is at work on the run; one that had ended may be opened again.  Of a sink
    that wrote a document just now, or could not, older failures are not told.
    """
    written = {w.sink: w for w in documents}
    ranks = list(participants.ranks(of))
    first = ranks[0].started if ranks else None
    end = ends.run_status(of)
    everybody = participants.clients(of)
    sent = sum(delivery.sent(of, p) for p in everybody)
    received = sum(p.received for p in everybody)
    over = ends.closed(of)
    starts = [p.started.time for p in ranks if p.started is not None]
    return {
        "format": 1,
        "run": first.run if first else None,
        "name": first.name if first else None,
        "experiment": first.experiment if first else None,
        "namespace": first.namespace if first else None,
        "part_of": next((s.part_of for p in ranks if (s := p.started) and s.part_of), None),
        "prov4ml": first.version if first else None,
        "status": end.status,
        "status_known_by": end.known,
        "error": _error(end),
        "started": iso(min(starts)) if starts else None,
        "ended": None if end.time is None else iso(end.time),
        "closed": iso(over) if over is not None and closed else None,
        "attempts": len(participants.attempts(of)),
        "accounting": {
            "sent": sent,
            "received": received,
            "rejected": sum(sum(p.rejected.values()) for p in everybody),
            "lost": sent - received,
            "points": sum(p.points for p in everybody),
        },
        "ranks": [_rank(of, p, p.started) for p in ranks if p.started is not None],
        "outputs": [
            {"path": o.path, "sink": o.sink, "sha256": o.sha256, "size": o.size, "rows": o.rows}
            for _, o in sorted(of.outputs.items())
        ],
        "documents": [
            {"sink": w.sink, "path": w.path, "size": w.size}
            for w in written.values()
            if w.error is None
        ],
        "failures": [f"sink {w.sink}: {w.error}" for w in written.values() if w.error is not None]
        + [f"sink {f.sink}: {f.error}" for f in delivery.failures(of) if f.sink not in written],
    }


def _rank(of: RunState, p: Producer, started: ev.Started) -> dict[str, Any]:
    end = ends.ended(of, p)
    family = participants.family(of, p)
    sent = sum(delivery.sent(of, member) for member in family)
    received = sum(member.received for member in family)
    return {
        "rank": started.rank,
        "attempt": started.attempt,
        "host": started.host,
        "pid": started.pid,
        "pid_start": started.pid_start,
        "boot_id": started.boot_id,
        "status": end.status,
        "status_known_by": end.known,
        "exit_code": end.exit_code,
        "error": _error(end),
        "started": iso(started.time),
        "ended": None if end.time is None else iso(end.time),
        "sent": sent,
        "received": received,
        "rejected": sum(sum(member.rejected.values()) for member in family),
        "lost": sent - received,
        "producers": [member.id.hex() for member in family],
    }


def _error(end: ends.End) -> str | None:
    if end.error_type is None:
        return None
    return f"{end.error_type}: {end.error_message}" if end.error_message else end.error_type


def read_manifest(directory: Path) -> dict[str, Any]:
    """``run.json`` of a run; empty where there is none, or none that can be read."""
    try:
        content = msgspec.json.decode((directory / "run.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def write_manifest(directory: Path, content: Mapping[str, Any]) -> None:
    data = msgspec.json.format(msgspec.json.encode(content), indent=2)
    sink.write_atomically(directory / "run.json", [data, b"\n"])
