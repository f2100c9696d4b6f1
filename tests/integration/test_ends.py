"""How a run ended stands in its provenance, and ending it changes nothing for the script."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml.witness import pidfd_tells

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Isolated, Read

START = """
import os, signal, sys
import prov4ml
prov4ml.start_run("e")
prov4ml.log_metric("loss", 0.5, "training", 0)
"""

WITH = """
import sys
import prov4ml
with prov4ml.start_run("e"):
    prov4ml.log_metric("loss", 0.5, "training", 0)
"""

# what happens: script, exit code, status, exit code in run.json, error in run.json
ENDS: dict[str, tuple[str, int, str, int | None, str | None]] = {
    "end_run": (START + "prov4ml.end_run()", 0, "finished", None, None),
    "end_run, then an exception": (
        START + "prov4ml.end_run()\nraise ValueError('later')",
        1,
        "finished",
        None,
        None,
    ),
    "with": (WITH, 0, "finished", None, None),
    "with and an exception": (
        WITH + "    raise ValueError('bad <luck> & \"more\"')",
        1,
        "failed",
        None,
        'ValueError: bad <luck> & "more"',
    ),
    "with and an exception that is caught outside": (
        "try:\n"
        + "\n".join(f"    {line}" for line in WITH.splitlines())
        + "\n        raise OSError(28, 'full')\nexcept OSError:\n    pass",
        0,
        "failed",
        None,
        "OSError: [Errno 28] full",
    ),
    "with and SystemExit": (WITH + "    raise SystemExit(4)", 4, "failed", 4, "SystemExit: 4"),
    "with and sys.exit(0)": (WITH + "    sys.exit(0)", 0, "finished", 0, None),
    "an exception that nobody catches": (
        START + "raise RuntimeError('out of memory')",
        1,
        "failed",
        None,
        "RuntimeError: out of memory",
    ),
    "an exception with no message": (START + "assert False", 1, "failed", None, "AssertionError"),
    "an exception in a function called late": (
        START + "def f():\n    return {}['key']\nf()",
        1,
        "failed",
        None,
        "KeyError: 'key'",
    ),
    "sys.exit(3)": (START + "sys.exit(3)", 3, "failed", 3, None),
    "sys.exit('text')": (START + "sys.exit('no data')", 1, "failed", 1, None),
    "sys.exit(0)": (START + "sys.exit(0)", 0, "finished", None, None),
    "sys.exit()": (START + "sys.exit()", 0, "finished", None, None),
    "KeyboardInterrupt": (
        START + "os.kill(os.getpid(), signal.SIGINT)\nsignal.pause()",
        -signal.SIGINT,
        "failed",
        None,
        "KeyboardInterrupt",
    ),
    "nothing: end_run was forgotten": (START, 0, "finished", None, None),
    "an exception that was caught": (
        START + "try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass\n"
        "prov4ml.log_metric('loss', 0.25, 'training', 1)",
        0,
        "finished",
        None,
        None,
    ),
    "sys.exit(3) in a thread": (
        START + "import threading\n"
        "thread = threading.Thread(target=sys.exit, args=(3,))\n"
        "thread.start()\nthread.join()",
        0,
        "finished",
        None,
        None,
    ),
    "sys.exit(3) that was caught": (
        START + "try:\n    sys.exit(3)\nexcept SystemExit:\n    pass\n"
        "prov4ml.log_metric('loss', 0.25, 'training', 1)",
        0,
        "finished",
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_status(isolated: Isolated, read: type[Read], case: str) -> None:
    """Status, exit code and error are true in run.json and in the documents."""
    script, code, status, exit_code, error = ENDS[case]
    isolated.script(script, code=code)
    left = read(isolated.only_run())
    left.check()
    (rank,) = left.manifest["ranks"]
    for shown in (left.manifest, rank):
        assert (shown["status"], shown["status_known_by"]) == (status, "self")
        assert shown["error"] == error
    assert rank["exit_code"] == exit_code
    assert left.manifest["accounting"]["lost"] == 0
    assert len(left.points) == script.count("log_metric(")
    kind, _, message = (error or "").partition(": ")
    for type_ in ("mls:Run", "p4:Attempt", "p4:RankProcess"):
        (activity,) = left.records(type_)
        facts = {str(k): str(v) for k, v in activity.attributes}
        assert facts["p4:status"] == status, type_
        assert facts.get("p4:errorType", "") == kind, type_
        assert facts.get("p4:errorMessage", "") == message, type_
        assert activity.get_endTime() is not None
    (row,) = left.ask("SELECT ?s WHERE { ?r a mls:Run ; p4:status ?s }")
    assert row["s"].value == status
    assert status in left.texts()


@pytest.mark.parametrize("pidfd", [True, False], ids=["pidfd", "no pidfd"])
def test_killed(isolated: Isolated, read: type[Read], pidfd: bool) -> None:
    """After SIGKILL every returned call is there, and the status claims only what was seen."""
    script = START + (
        "import time\n"
        "while not os.path.exists(prov4ml.get_run_dir() / 'run.json'):\n"  # a collector looks on
        "    time.sleep(0.01)\n"
        "for step in range(1, 1000):\n"
        "    prov4ml.log_metric('loss', step / 7, 'training', step)\n"
        "prov4ml.log_param('last', 'word')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    isolated.script(script, code=-signal.SIGKILL, **({} if pidfd else {"PROV4ML_NO_PIDFD": "1"}))
    run = isolated.only_run()
    _wait_until_over(isolated, run)
    left = read(run)
    left.check()
    (rank,) = left.manifest["ranks"]
    expected = ("killed", "pidfd") if pidfd and pidfd_tells() else ("died", "none")
    assert (rank["status"], rank["status_known_by"]) == expected
    assert (left.manifest["status"], left.manifest["status_known_by"]) == expected
    assert left.manifest["accounting"]["lost"] == 0
    assert sorted(p["step"] for p in left.points) == list(range(1000))
    assert left.labels("mls:HyperParameterSetting") == {"last": 1}


def _wait_until_over(isolated: Isolated, run: Path) -> None:
    def over() -> bool:
        return (run / "run.json").is_file() and bool(isolated.manifest(run)["closed"])

    isolated.wait(over, "the collector closes the run")


def test_killed_before_the_collector_came(isolated: Isolated, read: type[Read]) -> None:
    """A script killed right after its first calls leaves a run that recover completes."""
    isolated.script(START + "os.kill(os.getpid(), signal.SIGKILL)", code=-signal.SIGKILL)
    for process in isolated.collectors():
        process.kill()
        process.wait(10)
    isolated.prov4ml("recover")
    left = read(isolated.only_run())
    left.check()
    assert left.manifest["status"] in ("died", "killed")
    assert [p["value"] for p in left.points] == [0.5]


HOOKS = """
import atexit, signal, sys
import prov4ml

def hook(kind, error, trace):
    print("hook", kind.__name__)

def handler(number, frame):
    print("signal", number)

def state():
    hooks = [sys.excepthook, sys.unraisablehook]
    return hooks + [signal.getsignal(n) for n in signal.valid_signals()]

sys.excepthook = hook
signal.signal(signal.SIGTERM, handler)
atexit.register(print, "first")
before = state()
prov4ml.start_run("e")
atexit.register(print, "second")
assert state() == before
prov4ml.log_metric("loss", 1.0)
signal.raise_signal(signal.SIGTERM)
MIDDLE
assert state() == before
raise LookupError("nothing")
"""


@pytest.mark.parametrize("middle", ["", "prov4ml.end_run()"], ids=["open", "ended"])
def test_hooks_stay(isolated: Isolated, middle: str) -> None:
    """The user's excepthook, signal handlers and the order of atexit are as without prov4ml."""
    done = isolated.script(HOOKS.replace("MIDDLE", middle), code=1)
    expected = ["signal 15", "hook LookupError", "second", "first"]
    assert done.stdout.splitlines() == expected
    status = "finished" if middle else "failed"
    assert isolated.manifest()["status"] == status


def test_threads_may_outlive_the_script(isolated: Isolated, read: type[Read]) -> None:
    """Points that a thread logs until it ends are kept: the run ends after the threads."""
    script = START + (
        "import threading\n"
        "def work():\n"
        "    threading.main_thread().join()\n"
        "    for step in range(1, 100):\n"
        "        prov4ml.log_metric('loss', float(step), 'training', step)\n"
        "threading.Thread(target=work).start()\n"
    )
    isolated.script(script)
    left = read(isolated.only_run())
    left.check()
    assert len(left.points) == 100


def test_end_takes_no_longer_than_exit_timeout(isolated: Isolated, read: type[Read]) -> None:
    """With a collector that does not answer, the end keeps its bound, and collect completes it."""
    script = START + "import time\nt = time.monotonic()\nprov4ml.end_run()\n"
    script += "print(time.monotonic() - t)\n"
    done = isolated.script(script, PROV4ML_COLLECTOR="tcp://127.0.0.1:9", PROV4ML_EXIT_TIMEOUT="2")
    assert float(done.stdout) < 2 * 2.0  # slack for a busy machine
    run = isolated.only_run()
    assert f"prov4ml collect {run}" in done.stderr
    assert list((run / "undelivered").iterdir())
    isolated.prov4ml("collect", str(run))
    left = read(run)
    left.check()
    assert len(left.points) == 1
    assert not (run / "undelivered").exists()


def test_nested_interpreter(isolated: Isolated) -> None:
    """A subprocess that knows nothing of prov4ml is no part of the run and disturbs nothing."""
    script = START + "import subprocess\n"
    script += "subprocess.run([sys.executable, '-c', 'print(1)'], check=True)\nprov4ml.end_run()\n"
    done: subprocess.CompletedProcess[Any] = isolated.script(script)
    assert done.stdout == "1\n"
    assert len(isolated.manifest()["ranks"]) == 1
