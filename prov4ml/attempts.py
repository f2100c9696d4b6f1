"""A new attempt of a run that is named: which run that is, and the number of the attempt.

A run is named by its directory, the directory's name, or its id.  ``run.json`` says which it is;
so does its event log, and where no collector ever came, its journals.  An attempt's number is
taken with the marker ``<dir>/.prov4ml/<run id>.<attempt>``, which says by which job: its ranks find
it there, another job takes the next number.  So two attempts never have one
number, however little of the first has arrived.  ``rundir`` has the way of those who start a run.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from prov4ml import events as ev
from prov4ml import process, rundir, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError, UsageError
from prov4ml.eventlog import Reader
from prov4ml.provdm import segment
from prov4ml.rundir import Claim, Launch

__all__ = ["continued", "find", "numbered"]


class _Earlier(msgspec.Struct):
    """What is known of a run that is to be continued."""

    id: str
    directory: Path
    attempts: int  # how many there were, as far as anybody knows
    ranks: list[dict[str, Any]]  # of run.json


def continued(
    base: Path, run: str, key: str | None, where: Launch, places: list[Path]
) -> tuple[Claim, Launch]:
    """A place in a new attempt of an earlier run.

    ``run``: path of its directory, its name below ``base``, or its id.  ``key``: ranks that share
    it belong to one attempt.  ``places``: where journals lie.  Raises ``UsageError`` for a run
    that is not there, says nothing of itself, keeps no events or still runs on this host.
    """
    earlier = _find(base, run, places)
    kept = earlier.directory / "events"
    if (earlier.directory / "run.json").exists() and not kept.is_dir():
        raise UsageError(
            f"resume: {earlier.directory} keeps no events (keep_events = false): a new attempt "
            "would take the place of what it says"
        )
    markers = earlier.directory.parent / ".prov4ml"
    for _ in range(1000):
        markers.mkdir(exist_ok=True)
        try:
            attempt = _attempt(earlier, markers, key, where, places)
            place = markers / f"{earlier.id}.{attempt}.{where.rank}"
            if attempt and rundir.create(place, rundir.holder()):
                claimed = Claim(earlier.id, earlier.directory.name, earlier.directory, earlier.id)
                return claimed, msgspec.structs.replace(where, attempt=attempt)
        except FileNotFoundError:  # a marker that we saw went with its run
            continue
    raise UsageError(f"resume: {markers} changes all the time")


def numbered(
    base: Path, experiment: str, number: int, key: str | None, where: Launch, places: list[Path]
) -> tuple[Claim, Launch]:
    """A place in the run ``<experiment>_<number>``, which is made, or continued if it is there.

    The marker is made before the directory: one that lies there without it is of an earlier job.
    """
    directory = base / f"{segment(experiment)}_{number}"
    if directory.is_dir() and (key is None or not (base / ".prov4ml" / key).exists()):
        if _known(directory.absolute(), places) is None:
            raise UsageError(
                f"use_run_id: {directory} is there and says nothing of a run; take another number, "
                f"or try: prov4ml collect {directory}"
            )
        return continued(base, str(directory), key, where, places)
    return rundir.claim(base, experiment, key, where, number), where


def find(base: Path, run: str, places: list[Path]) -> Path:
    """The directory of a run (path, name below ``base``, or id); ``UsageError`` without one."""
    return _find(base, run, places).directory


def _attempt(
    earlier: _Earlier, markers: Path, key: str | None, where: Launch, places: list[Path]
) -> int:
    """The attempt that our job is in, begun here if no other rank has done so; 0: look again."""
    job = f"{key}.{where.attempt}" if key is not None else ""
    held = _held(markers, earlier.id)
    ours = [n for n in held if job and _read(markers / f"{earlier.id}.{n}").get("job") == job]
    for number in sorted(ours, reverse=True):
        if where.rank not in held[number]:
            return number
    # Behind the markers: what went from there meanwhile stands in the manifest.
    earlier = _known(earlier.directory, places) or earlier
    journals = _journals(earlier, places)
    for attempt, rank, pid in _living(earlier, markers, held, journals):
        if attempt not in ours or rank == where.rank:
            raise UsageError(
                f"resume: {earlier.directory} still runs (rank {rank} of attempt {attempt}, "
                f"pid {pid})"
            )
    number = max([earlier.attempts, *held, *(who.attempt for who in journals)]) + 1
    begun = {**json.loads(rundir.holder()), "rank": where.rank, "job": job}
    return number if rundir.create(markers / f"{earlier.id}.{number}", json.dumps(begun)) else 0


# ---------------------------------------------------------------------------- which run it is


def _find(base: Path, run: str, places: list[Path]) -> _Earlier:
    for folder in (Path(run), base / run):
        if folder.is_dir():
            found = _known(folder.absolute(), places)
            if found is not None:
                return found
    if _canonical(run):
        for manifest in base.glob("*/run.json"):
            if _read(manifest).get("run") == run:
                return _known(manifest.parent.absolute(), places) or _nothing(base, run)
        for first in _introductions(places, run):
            found = _known(Path(first.directory), places)
            if found is not None:
                return found
    return _nothing(base, run)


def _nothing(base: Path, run: str) -> _Earlier:
    for folder in (Path(run), base / run):
        if folder.is_dir():
            raise UsageError(
                f"resume: {folder.absolute()} says of no run: it has no readable run.json, no "
                "event log, and no journal on this host"
            )
    raise UsageError(f"resume: there is no run {run!r}, neither a folder nor below {base}")


def _known(directory: Path, places: list[Path]) -> _Earlier | None:
    """What a directory says of its run; None when it says nothing."""
    manifest = _read(directory / "run.json")
    id, ranks = manifest.get("run"), manifest.get("ranks")
    if isinstance(id, str) and _canonical(id) and isinstance(manifest.get("attempts"), int):
        return _Earlier(id, directory, manifest["attempts"], ranks if ranks else [])
    started = _logged(directory)
    if started:
        return _Earlier(started[0].run, directory, max(s.attempt for s in started), [])
    for path in sorted(directory.glob("undelivered/*/*.seg")):
        who = _identity(path)
        if who is not None:
            return _Earlier(who.run, directory, who.attempt, [])
    for run in spool.runs(places):
        for first in _introductions(places, run):
            if Path(first.directory) == directory:
                return _Earlier(run, directory, first.attempt, [])
    return None


def _read(manifest: Path) -> dict[str, Any]:
    try:
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _logged(directory: Path) -> list[ev.Started]:
    """The introductions in an event log: each is the first event of its producer."""
    found: list[ev.Started] = []
    reader = Reader(directory / "events")
    try:
        for frame in reader:
            if frame.first == 0 and frame.count:
                first = wire.decode_batch(frame.batch, frame.count)[0]
                found += [first] if isinstance(first, ev.Started) else []
    except FormatError:
        pass
    finally:
        reader.close()
    return found


def _introductions(places: list[Path], run: str) -> Iterator[ev.Started]:
    """The first records of a run's journals in the spool."""
    for producer in spool.producers(places, run):
        for path in spool.segments(places, run, producer)[:1]:
            try:
                view = seg.view(path, check=False)
            except (FormatError, OSError):
                continue
            if view.first == 0 and view.count:
                records = wire.array_header(view.count) + view.records
                first = wire.decode_batch(records, view.count)[0]
                if isinstance(first, ev.Started) and os.path.isabs(first.directory):
                    yield first


def _canonical(run: str) -> bool:
    try:
        return str(uuid.UUID(run)) == run
    except ValueError:
        return False


# ------------------------------------------------------------------------------ who is in it


def _journals(earlier: _Earlier, places: list[Path]) -> list[seg.Identity]:
    """Whose journals of the run are here: in the spool, and undelivered."""
    paths = [
        path
        for producer in spool.producers(places, earlier.id)
        for path in spool.segments(places, earlier.id, producer)[:1]
    ]
    paths += sorted(earlier.directory.glob("undelivered/*/*.seg"))
    return [who for who in map(_identity, paths) if who is not None]


def _identity(path: Path) -> seg.Identity | None:
    try:
        return seg.identity(path)
    except (FormatError, OSError):
        return None


Held = dict[int, dict[int, dict[str, Any]]]
"""The holders of places by attempt and rank."""


def _held(markers: Path, prefix: str) -> Held:
    """Attempts that have markers behind a name (a run's id, or a key), and who is in them."""
    found: Held = {}
    for name in os.listdir(markers):
        words = name[len(prefix) + 1 :].split(".")
        if name.startswith(f"{prefix}.") and words[0].isdigit():
            holders = found.setdefault(int(words[0]), {})
            if len(words) == 2 and words[1].isdigit():
                holders[int(words[1])] = _read(markers / name)
    return found


def _beginners(markers: Path, id: str, held: Held) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Attempt, rank and facts of who took each number; their place they may take a moment later."""
    for attempt in held:
        who = _read(markers / f"{id}.{attempt}")
        if "rank" in who:
            yield attempt, who["rank"], who


def _living(
    earlier: _Earlier, markers: Path, held: Held, journals: list[seg.Identity]
) -> Iterator[tuple[int, int, int]]:
    """Attempt, rank and pid of each rank that lives on this host, whoever says so."""
    for row in earlier.ranks:
        if row.get("status") == "running":
            who = {"pid": row["pid"], "start": row["pid_start"], "boot": row["boot_id"]}
            if _lives(who):
                yield int(row["attempt"]), int(row["rank"]), int(row["pid"])
    keys = [name for name in os.listdir(markers) if "." not in name]
    started = [key for key in keys if _text(markers / key) == earlier.id]
    for attempt, rank, who in _beginners(markers, earlier.id, held):
        if _lives(who):
            yield attempt, rank, int(who["pid"])
    for places in (held, *(_held(markers, key) for key in started)):
        for attempt, holders in places.items():
            for rank, who in holders.items():
                if _lives(who):
                    yield attempt, rank, int(who["pid"])
    for journal in journals:
        if not journal.parent and process.alive(journal.pid, journal.pid_start, journal.boot_id):
            yield journal.attempt, journal.rank, journal.pid


def _lives(who: dict[str, Any]) -> bool:
    """Whether the holder of a place lives here; ourselves do not count: our last run has ended."""
    pid, start, boot = who.get("pid"), who.get("start"), who.get("boot")
    if not isinstance(pid, int) or not isinstance(start, int) or pid == os.getpid():
        return False
    return process.alive(pid, start, str(boot))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
