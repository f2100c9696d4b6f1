"""Commands that only look: sinks, runs, show, doctor."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from prov4ml import config, process, service, sink, spool
from prov4ml.errors import UsageError
from prov4ml.version import VERSION

__all__ = ["doctor", "run", "runs", "settings", "sinks"]


def sinks() -> int:
    """Every installed sink with a line on it."""
    chosen = config.load({}, os.environ, Path.cwd()).sinks
    found = sink.available()
    width = max((len(name) for name in found), default=0)
    for name, entry in found.items():
        try:
            kind = entry.load()
            line = f"{'stream  ' if sink.is_stream(kind) else 'document'}  {sink.summary(kind)}"
        except Exception as error:  # a stranger's package may raise anything
            line = f"cannot be used: {error}"
        print(f"{'*' if name in chosen else ' '} {name:<{width}}  {line}")
    print("* on the list of this folder's configuration")
    return 0


def runs(base: Path) -> int:
    """The runs in a folder, a line each."""
    rows = [("RUN", "STATUS", "STARTED", "RANKS", "EVENTS", "LOST")]
    for manifest in sorted(base.glob("*/run.json"), key=lambda p: p.stat().st_mtime):
        try:
            m = msgspec.json.decode(manifest.read_bytes())
            account = m["accounting"]
            rows.append(
                (
                    manifest.parent.name,
                    str(m["status"]),
                    str(m["started"] or "")[:19].replace("T", " "),
                    str(len(m["ranks"])),
                    f"{account['received']:,}",
                    f"{account['lost']:,}",
                )
            )
        except (msgspec.DecodeError, KeyError, TypeError):
            rows.append((manifest.parent.name, "unreadable run.json", "", "", "", ""))
    if len(rows) == 1:
        raise UsageError(f"there are no runs in {str(base)!r}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def run(directory: Path) -> int:
    """What a run is, and what it left."""
    manifest = directory / "run.json"
    if not manifest.is_file():
        raise UsageError(f"{directory} has no run.json: is it a run directory?")
    try:
        m: dict[str, Any] = msgspec.json.decode(manifest.read_bytes())
    except msgspec.DecodeError as error:
        raise UsageError(f"{manifest}: {error}") from None
    account = m["accounting"]
    known = {"self": "it said so itself", "none": "no witness"}.get(
        m["status_known_by"], m["status_known_by"]
    )
    print(f"run        {m['name']}  ({m['run']})")
    print(f"directory  {directory.absolute()}")
    print(f"status     {m['status']} ({known})" + (f": {m['error']}" if m["error"] else ""))
    print(f"time       {m['started']} to {m['ended'] or 'now'}")
    print(
        f"events     {account['sent']:,} sent, {account['received']:,} received, "
        f"{account['lost']:,} lost, {account['rejected']:,} rejected; "
        f"{account['points']:,} metric points"
    )
    for rank in m["ranks"][:8]:
        print(
            f"rank {rank['rank']:<5} {rank['status']} on {rank['host']}, pid {rank['pid']}, "
            f"{rank['sent']:,} sent, {rank['lost']:,} lost"
        )
    if len(m["ranks"]) > 8:
        print(f"           and {len(m['ranks']) - 8} more ranks: run.json")
    for failure in m["failures"]:
        print(f"failed     {failure}")
    print("files")
    for name, size in _contents(directory):
        print(f"  {name:<34} {size:>12,} bytes")
    return 0


def _contents(directory: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(directory.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
            if files:
                size = sum(p.stat().st_size for p in files)
                yield f"{path.name}/ ({len(files)} file{'s' * (len(files) != 1)})", size
        else:
            yield path.name, path.stat().st_size


def settings() -> int:
    """Every setting with its value and where it came from."""
    found = config.load({}, os.environ, Path.cwd())
    for name, value in msgspec.structs.asdict(found).items():
        if name != "origins":
            print(f"{name:<21} {value!r:<58} {found.origins.get(name, 'default')}")
    return 0


def doctor() -> int:
    """Whether everything is in place, and what is not."""
    bad = 0

    def line(ok: bool, what: str, text: str) -> None:
        nonlocal bad
        bad += not ok
        print(f"{'ok  ' if ok else 'BAD '} {what:<12} {text}")

    line(sys.platform == "linux", "platform", f"{sys.platform}, Python {sys.version.split()[0]}")
    print(f"     version      prov4ml {VERSION}, host {process.hostname()}")
    places = spool.roots(os.environ)
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(place).free
            line(free > 512 << 20, "spool", f"{place}, {free >> 20:,} MiB free")
        except OSError as error:
            line(False, "spool", f"{place}: {error}")
    left = spool.runs(places)
    if left:
        print(f"     spool        journals of {len(left)} runs: running, or for prov4ml recover")
    try:
        found = service.find(os.environ)
        state = "serves" if service.served(found) else "not running (starts with the next run)"
        line(True, "collector", f"{state}; {found.socket}")
        if found.log.exists() and found.log.stat().st_size:
            last = found.log.read_text(errors="replace").strip().splitlines()[-1:]
            print(f"     last message {last[0] if last else ''}")
    except OSError as error:
        line(False, "collector", str(error))
    line(True, "kernel", f"Linux {os.uname().release}, pidfd {_has(hasattr(os, 'pidfd_open'))}")
    try:
        chosen = config.load({}, os.environ, Path.cwd())
        line(True, "settings", f"sinks {', '.join(chosen.sinks)}; collector {chosen.address}")
    except UsageError as error:
        line(False, "settings", str(error))
    for name, entry in sink.available().items():
        try:
            entry.load()
        except Exception as error:  # a stranger's package may raise anything
            line(False, "sink", f"{name}: {error}")
    return 1 if bad else 0


def _has(there: bool) -> str:
    return "yes" if there else "no"
