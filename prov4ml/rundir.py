"""Which run am I: launcher, run key, and the directory that all ranks agree on without talking.

Whoever creates the marker ``<dir>/.prov4ml/<key>`` first makes the run id, claims
``<experiment>_<n>`` by mkdir and writes ``<key>.dir``; the others wait for that file.  Each
rank then claims its place in the run with ``<key>.<attempt>.<rank>``: a place that is taken, or
in an attempt that is over, means that this is another job, which gets a run of its own.  A
restart, told by the launcher's count, takes a place in the next attempt.  Exclusive creation is
by hard link, which is safe on NFS.  File-system metadata only; ``attempts`` has the other way
to go on with a run, by naming it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import process
from prov4ml.errors import UsageError
from prov4ml.provdm import segment

__all__ = [
    "Claim",
    "Launch",
    "claim",
    "create",
    "holder",
    "launch",
    "release",
    "run_key",
    "uuid7",
]

_TAKE_OVER: Final = 5.0  # seconds after which a silent winner is given up


class Launch(msgspec.Struct, frozen=True):
    """What the launcher said of this process."""

    launcher: str  # "none", "torchrun", "slurm", "openmpi", "pmi", "prov4ml", "arguments"
    job: str | None
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    attempt: int = 1
    scheduler: str = ""  # "slurm": whose job this is, whatever launched the process in it


class Claim(msgspec.Struct, frozen=True):
    """A place in a run."""

    run: str  # UUIDv7
    name: str  # "<experiment>_<n>"
    directory: Path  # absolute
    key: str | None  # what its markers are named after; None for a run that nobody can join


def launch(environment: Mapping[str, str], rank: int | None = None) -> Launch:
    """Rank, world and job from the launcher's variables; ``rank`` overrides.

    Raises ``UsageError`` for a variable that should be a number and is none.
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{name} should be a number, not {text!r}") from None

    job = environment.get("PROV4ML_JOB") or None
    parent = os.getppid()
    beside = f"{process.boot_id()}/{parent}/{process.pid_start(parent)}"
    if "RANK" in environment and "WORLD_SIZE" in environment:
        elastic = environment.get("TORCHELASTIC_RUN_ID", "none")
        found = Launch(
            "torchrun",
            job or (elastic if elastic not in ("", "none") else beside),
            number("RANK", 0),
            number("LOCAL_RANK", 0),
            number("WORLD_SIZE", 1),
            number("TORCHELASTIC_RESTART_COUNT", 0) + 1,
        )
    elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        slurm = f"slurm/{environment.get('SLURM_JOB_ID')}/{environment['SLURM_STEP_ID']}"
        found = Launch(
            "slurm",
            job or slurm,
            number("SLURM_PROCID", 0),
            number("SLURM_LOCALID", 0),
            number("SLURM_NTASKS", 1),
            number("SLURM_RESTART_COUNT", 0) + 1,
        )
    elif "OMPI_COMM_WORLD_RANK" in environment:
        space = environment.get("PMIX_NAMESPACE") or beside
        found = Launch(
            "openmpi",
            job or space,
            number("OMPI_COMM_WORLD_RANK", 0),
            number("OMPI_COMM_WORLD_LOCAL_RANK", 0),
            number("OMPI_COMM_WORLD_SIZE", 1),
        )
    elif "PMI_RANK" in environment:
        found = Launch(
            "pmi",
            job or beside,
            number("PMI_RANK", 0),
            number("MPI_LOCALRANKID", 0),
            number("PMI_SIZE", 1),
        )
    else:
        found = Launch("prov4ml" if job else "none", job)
    if (
        rank is not None
    ):  # the same for all ranks of a job, whichever number it is: keys depend on it
        world = max(found.world_size, rank + 1)
        if found.launcher in ("none", "prov4ml"):
            found = Launch("arguments", job or beside, rank, rank, world)
        elif rank != found.rank:
            found = msgspec.structs.replace(found, rank=rank, world_size=world)
    scheduler = "slurm" if environment.get("SLURM_JOB_ID") else ""
    return msgspec.structs.replace(found, scheduler=scheduler)


def run_key(where: Launch, experiment: str, ordinal: int) -> str | None:
    """The key that all ranks of a job compute alike; None for a run that nobody can join.

    ``ordinal``: this is the k-th ``start_run`` of the experiment in the process, from 1.
    """
    if where.job is None and where.world_size == 1:
        return None
    parts = (process.user(), where.launcher, where.job or "", experiment, str(ordinal))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def claim(
    base: Path, experiment: str, key: str | None, where: Launch, number: int | None = None
) -> Claim:
    """Take this rank's place in its run, making the run if it is the first.

    ``number``: of the run's name, when it is not the next free one.  Raises ``OSError`` when the
    directory cannot be made or written.
    """
    base.mkdir(parents=True, exist_ok=True)
    if key is None:
        run = uuid7()
        name = (
            _claim_name(base, experiment) if number is None else f"{segment(experiment)}_{number}"
        )
        if number is not None:
            (base / name).mkdir()
        return Claim(run, name, base / name, None)
    for _ in range(100):
        try:
            return _claim(base, experiment, key, where, number)
        except FileNotFoundError:  # a marker that we saw went with its run
            continue
    raise UsageError(f"{base / '.prov4ml'} changes all the time")


def _claim(base: Path, experiment: str, key: str, where: Launch, number: int | None) -> Claim:
    markers = base / ".prov4ml"
    markers.mkdir(exist_ok=True)
    first = _last_variant(markers, key) if where.attempt > 1 else 0
    for variant in range(first, first + 1000):
        this = key if variant == 0 else f"{key}-{variant}"
        if (markers / f"{this}.{where.attempt}.over").exists():
            continue
        run, name = _join(base, markers, this, experiment, number)
        if create(markers / f"{this}.{where.attempt}.{where.rank}", holder()):
            return Claim(run, name, base / name, this)
    raise UsageError(f"{markers} holds 1000 runs of this key: remove the markers of dead ones")


def _last_variant(markers: Path, key: str) -> int:
    """The last run of a key is the one that a restart goes on with."""
    names = (re.fullmatch(rf"{key}(?:-(\d+))?", name) for name in os.listdir(markers))
    return max((int(found[1] or 0) for found in names if found), default=0)


def release(claimed: Path, key: str, over: Iterable[int], *, restarts: bool = False) -> None:
    """Remove the markers of a run that is over (``claimed`` is the run's directory).

    ``over``: its attempts so far; markers of a later one, just beginning, stay.  ``restarts``: it
    came to a bad end; the markers of the run itself stay, so that a launcher that starts it again
    (with a higher restart count) finds it, and one that starts anew does not.
    """
    markers = claimed.parent / ".prov4ml"
    try:
        names = os.listdir(markers)
    except OSError:
        return
    numbers = set(over)
    restarts = restarts and f"{key}.dir" in names  # nobody restarts what was named to be resumed
    if restarts:
        for number in numbers:
            create(markers / f"{key}.{number}.over", "")
    for name in names:
        if name != key and not name.startswith(f"{key}."):
            continue
        word = name[len(key) + 1 :].partition(".")[0]
        later = word.isdigit() and int(word) not in numbers
        if not later and not (restarts and (word in ("", "dir") or name.endswith(".over"))):
            (markers / name).unlink(missing_ok=True)
    try:
        markers.rmdir()
    except OSError:
        pass  # other runs are open


def _join(
    base: Path, markers: Path, key: str, experiment: str, number: int | None
) -> tuple[str, str]:
    marker, settled = markers / key, markers / f"{key}.dir"
    won = create(marker, uuid7())
    run = marker.read_text()
    deadline = time.monotonic() + _TAKE_OVER
    while not won:
        if settled.exists():
            break
        if time.monotonic() > deadline:
            won = True
        else:
            time.sleep(0.005)
    if won and number is not None:
        name = f"{segment(experiment)}_{number}"
        (base / name).mkdir(exist_ok=True)  # whoever took over with us made the same one
        create(settled, name)
    elif won:
        name = _claim_name(base, experiment)
        if not create(settled, name):  # somebody else took over at the same moment
            (base / name).rmdir()
    return run, settled.read_text()


def _claim_name(base: Path, experiment: str) -> str:
    stem = segment(experiment)
    taken = [
        int(tail)
        for name in os.listdir(base)
        if name.startswith(f"{stem}_") and (tail := name[len(stem) + 1 :]).isdigit()
    ]
    number = max(taken, default=-1) + 1
    while True:
        try:
            (base / f"{stem}_{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return f"{stem}_{number}"


def create(path: Path, text: str) -> bool:
    """Create a file with its content, or find that it is there.  A hard link decides."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        beside.write_text(text)
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def holder() -> str:
    """Who we are, for a marker that says whose a place is."""
    pid = os.getpid()
    facts = {
        "pid": pid,
        "start": process.pid_start(pid),
        "boot": process.boot_id(),
        "host": process.hostname(),
    }
    return json.dumps(facts)


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))
