"""Which run am I: launcher, run key, and the directory that all ranks agree on without talking.

Whoever creates the marker ``<dir>/.prov4ml/<key>`` first makes the run id, claims
``<experiment>_<n>`` by mkdir and writes ``<key>.dir``; the others wait for that file.  Each
rank then claims its place in the run with ``<key>.<attempt>.<rank>``: a place held by a living
process means that this is another job, which gets a run of its own.  Exclusive creation is by
hard link, which is safe on NFS.  File-system metadata only.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from prov4ml import process
from prov4ml.errors import UsageError
from prov4ml.provdm import segment

__all__ = ["Claim", "Launch", "claim", "continued", "launch", "release", "run_key", "uuid7"]

_TAKE_OVER: Final = 5.0  # seconds after which a silent winner is given up


class Launch(msgspec.Struct, frozen=True):
    """What the launcher said of this process."""

    launcher: str  # "none", "torchrun", "slurm", "openmpi", "pmi", "prov4ml", "arguments"
    job: str | None
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    attempt: int = 1


class Claim(msgspec.Struct, frozen=True):
    """A place in a run."""

    run: str  # UUIDv7
    name: str  # "<experiment>_<n>"
    directory: Path  # absolute
    key: str | None  # the marker's name; None for a run that nobody can join


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
    if rank is not None and rank != found.rank:
        world = max(found.world_size, rank + 1)
        found = Launch("arguments", found.job or beside, rank, rank, world, found.attempt)
    return found


def run_key(where: Launch, experiment: str, ordinal: int) -> str | None:
    """The key that all ranks of a job compute alike; None for a run that nobody can join.

    ``ordinal``: this is the k-th ``start_run`` of the experiment in the process, from 1.
    """
    if where.job is None and where.world_size == 1:
        return None
    parts = (process.user(), where.launcher, where.job or "", experiment, str(ordinal))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def claim(base: Path, experiment: str, key: str | None, where: Launch) -> Claim:
    """Take this rank's place in its run, making the run if it is the first.

    Raises ``OSError`` when the directory cannot be made or written.
    """
    base.mkdir(parents=True, exist_ok=True)
    if key is None:
        run = uuid7()
        name = _claim_name(base, experiment)
        return Claim(run, name, base / name, None)
    markers = base / ".prov4ml"
    markers.mkdir(exist_ok=True)
    for variant in range(1000):
        this = key if variant == 0 else f"{key}-{variant}"
        run, name = _join(base, markers, this, experiment)
        mine = json.dumps(
            {
                "pid": os.getpid(),
                "start": process.pid_start(os.getpid()),
                "boot": process.boot_id(),
                "host": process.hostname(),
            }
        )
        place = f"{this}.{where.attempt}.{where.rank}"
        if _create(markers / place, mine):
            return Claim(run, name, base / name, this)
    raise UsageError(f"{markers} holds 1000 runs of this key: remove the markers of dead ones")


def continued(base: Path, run: str, key: str | None, where: Launch) -> tuple[Claim, Launch]:
    """A place in a new attempt of an earlier run.

    ``run``: path of its directory, its name below ``base``, or its id.  Ranks that share a key
    agree on the attempt's number by a marker.  Raises ``UsageError`` for a run that is not
    there, says nothing of itself yet, or still runs on this host.
    """
    directory = _find(base, run)
    try:
        manifest: dict[str, Any] = json.loads((directory / "run.json").read_bytes())
        id, name, attempts = manifest["run"], directory.name, int(manifest["attempts"])
        uuid.UUID(id)
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"resume: {directory} has no readable run.json; try: prov4ml collect {directory}"
        ) from None
    attempt = attempts + 1
    if key is not None:
        markers = directory.parent / ".prov4ml"
        markers.mkdir(exist_ok=True)
        marker = markers / f"{key}.{id}.resume"
        _create(marker, str(attempt))
        attempt = int(marker.read_text())
    else:
        _not_running(directory, manifest)
    place = Claim(id, name, directory, None if key is None else f"{key}.{id}")
    return place, msgspec.structs.replace(where, attempt=attempt)


def _find(base: Path, run: str) -> Path:
    for found in (Path(run), base / run):
        if found.is_dir() and (found / "run.json").exists():
            return found.absolute()
    for manifest in base.glob("*/run.json"):
        try:
            if json.loads(manifest.read_bytes()).get("run") == run:
                return manifest.parent.absolute()
        except (OSError, ValueError, AttributeError):
            continue
    raise UsageError(f"resume: there is no run {run!r}, neither a folder nor below {base}")


def _not_running(directory: Path, manifest: Mapping[str, Any]) -> None:
    for rank in manifest.get("ranks", ()):
        if rank.get("status") != "running" or rank.get("host") != process.hostname():
            continue
        pid = int(rank.get("pid", 0))
        start = int(rank.get("pid_start", 0))
        if process.alive(pid, start, str(rank.get("boot_id"))):
            raise UsageError(f"resume: {directory} still runs (rank {rank['rank']}, pid {pid})")


def release(claimed: Path, key: str, *, restarts: bool = False) -> None:
    """Remove the markers of a run that is over (``claimed`` is the run's directory).

    ``restarts``: it came to a bad end; the markers of the run itself stay, so that a launcher
    that starts it again (with a higher restart count) finds it.
    """
    markers = claimed.parent / ".prov4ml"
    try:
        names = os.listdir(markers)
    except OSError:
        return
    for name in names:
        if restarts and name in (key, f"{key}.dir"):
            continue
        if name == key or name.startswith(f"{key}."):
            (markers / name).unlink(missing_ok=True)
    try:
        markers.rmdir()
    except OSError:
        pass  # other runs are open


def _join(base: Path, markers: Path, key: str, experiment: str) -> tuple[str, str]:
    marker, settled = markers / key, markers / f"{key}.dir"
    won = _create(marker, uuid7())
    run = marker.read_text()
    deadline = time.monotonic() + _TAKE_OVER
    while not won:
        if settled.exists():
            break
        if time.monotonic() > deadline:
            won = True
        else:
            time.sleep(0.005)
    if won:
        name = _claim_name(base, experiment)
        if not _create(settled, name):  # somebody else took over at the same moment
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


def _create(path: Path, text: str) -> bool:
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


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))
