"""Make the log of this release: ``python tests/data/logs/make.py`` in a tree of that version.

Two ranks of ``train.py`` under a real collector; rank 0 forks, rank 1 is killed.  What is kept is
``<version>/events/`` and ``<version>/counts.json``: how many events of each kind there are, and the
account.  The command refuses to replace a log: those of past releases stay as they were made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from prov4ml import wire
from prov4ml.eventlog import Reader
from prov4ml.version import VERSION

HERE = Path(__file__).parent


def main() -> None:
    target = HERE / VERSION
    target.mkdir()
    with tempfile.TemporaryDirectory(prefix="p4-", dir="/tmp") as name:
        run = record(Path(name))
        (target / "events").mkdir()
        for path in sorted((run / "events").glob("*.log.gz")):
            shutil.copy(path, target / "events")
        manifest = json.loads((run / "run.json").read_text())
    counts = {
        "status": manifest["status"],
        "accounting": manifest["accounting"],
        "ranks": {str(rank["rank"]): rank["status"] for rank in manifest["ranks"]},
        "frames": sum(1 for _ in Reader(target / "events")),
        "events": dict(sorted(kinds(target / "events").items())),
    }
    (target / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    print(json.dumps(counts, indent=2))


def record(base: Path) -> Path:
    """Run both ranks below ``base``; gives back the run directory."""
    shutil.copy(HERE / "train.py", base)
    (base / "prov4ml.toml").write_text('[run]\nuser = "alice"\n')
    git = base / ".git"  # the commit of a working tree that is nobody's
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs/heads/main").write_text("5880068" + "0" * 33 + "\n")
    (git / "config").write_text('[remote "origin"]\n\turl = git@lab.example:sample.git\n')
    address = f"ipc://{base}/collector.sock"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PROV4ML_")}
    environment = {
        **plain,
        "PROV4ML_SPOOL": str(base / "spool"),
        "PROV4ML_COLLECTOR": address,
        "WORLD_SIZE": "2",
    }
    python = [sys.executable, "-m", "prov4ml", "collector", "--bind", address, "--once"]
    collector = subprocess.Popen(python, cwd=base, env=environment)
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=base,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    (run,) = wait(lambda: list(base.glob("prov/sample_*")))
    wait((base / "rank0").exists)
    wait(lambda: kinds(run / "events")["Split"] == 2 and kinds(run / "events")["environments"] == 2)
    (base / "kill").touch()
    for process in [*ranks, collector]:
        process.wait(60.0)
    return run


def wait(condition):  # type: ignore[no-untyped-def]
    """The first true value of ``condition()``."""
    deadline = time.monotonic() + 60.0
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("the run does not get on")
        time.sleep(0.05)
    return found


def kinds(folder: Path) -> Counter[str]:
    """Events of each kind in a log; one that is not decoded counts as ``undecoded``."""
    found: Counter[str] = Counter()
    for frame in Reader(folder):
        if frame.count:
            for event in wire.decode_batch(frame.batch, frame.count):
                name = "undecoded" if isinstance(event, str) else type(event).__name__
                found[name] += 1
                if getattr(event, "kind", "") == "environment":
                    found["environments"] += 1
        else:
            found["series tables"] += 1
    return found


if __name__ == "__main__":
    main()
