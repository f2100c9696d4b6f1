"""The command ``prov4ml``: argument parsing and printing, nothing else.

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 wrong usage;
``prov4ml run`` ends with its program's code.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prov4ml.errors import FormatError, MissingExtra, SinkError, UsageError
from prov4ml.version import VERSION

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="prov4ml", description="Where a trained model came from, as W3C PROV."
    )
    top.add_argument("--version", action="version", version=f"prov4ml {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a program with a collector beside it")
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="-- CMD ...")

    collector = commands.add_parser("collector", help="serve as a collector until SIGTERM")
    collector.add_argument("--bind", metavar="ADDRESS", help="tcp://127.0.0.1:5557, ipc:///path")
    collector.add_argument("--once", action="store_true", help="end when the runs have ended")
    collector.add_argument(
        "--config", metavar="FILE", help="[collector] and [sinks.*] of this file"
    )
    collector.add_argument("--automatic", action="store_true", help=argparse.SUPPRESS)

    collect = commands.add_parser("collect", help="complete runs from journals left behind")
    collect.add_argument("runs", nargs="+", metavar="RUN", type=Path)

    commands.add_parser("recover", help="collect every run in this user's spool on this host")

    replay = commands.add_parser("replay", help="write documents again from the event log")
    replay.add_argument("run", metavar="RUN", type=Path)
    replay.add_argument("--sink", action="append", required=True, metavar="NAME")

    commands.add_parser("sinks", help="list the installed sinks")

    runs = commands.add_parser("runs", help="list the runs in a folder")
    runs.add_argument("directory", nargs="?", default="prov", type=Path)

    show = commands.add_parser("show", help="what a run is and what it left; without RUN, settings")
    show.add_argument("run", nargs="?", metavar="RUN", type=Path)

    commands.add_parser("doctor", help="look at spool, collector, kernel and sinks")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives back its exit code."""
    from prov4ml import commands, show

    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    logging.basicConfig(format="prov4ml: %(message)s", level=logging.INFO)
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": lambda o: commands.run(o.program),
        "collector": lambda o: commands.collector(o.bind, o.once, o.automatic, o.config),
        "collect": lambda o: commands.collect(o.runs),
        "recover": lambda _: commands.recover(),
        "replay": lambda o: commands.replay(o.run, o.sink),
        "sinks": lambda _: show.sinks(),
        "runs": lambda o: show.runs(o.directory),
        "show": lambda o: show.settings() if o.run is None else show.run(o.run),
        "doctor": lambda _: show.doctor(),
    }
    try:
        return actions[options.command](options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, FormatError, SinkError, MissingExtra, OSError) as error:
        print(f"prov4ml: {error}", file=sys.stderr)
        return 1
