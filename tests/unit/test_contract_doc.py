"""The delivery contract: each sentence names the tests that hold it, and they are there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from prov4ml import (
    artifacts,
    config,
    doings,
    environment,
    eventlog,
    handover,
    hot,
    journal,
    known,
    leases,
    outbox,
    params,
    provdm,
    publish,
    readback,
    recorder,
    references,
    sender,
    sources,
    spool,
    transport,
    wire,
    worktree,
)
from prov4ml.integrations import models
from prov4ml_sinks.metric_parts import MetricParts

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "prov4ml" / "README.md").read_text()
CONTRACT = PAGE.split("## The delivery contract\n")[1].split("\n## ")[0]
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def _said(text: str) -> list[str]:
    """Numbered sentences, with their further lines, and the rows of tables without their heads."""
    found: list[str] = []
    rows = 0
    for line in text.splitlines():
        rows = rows + 1 if line.startswith("|") else 0
        if rows > 2 or re.match(r"\d+\. ", line):
            found.append(line)
        elif line.startswith("   ") and found:
            found[-1] += f" {line.strip()}"
    return found


SAID = _said(CONTRACT)


def _there() -> Counter[tuple[str, str]]:
    """(stem of the file, name) of every test function."""
    found: Counter[tuple[str, str]] = Counter()
    for path in TESTS.glob("*/test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[path.stem, node.name] += 1
    return found


def test_each_sentence_names_a_test() -> None:
    """A promise that nothing holds does not stand in the contract."""
    assert len(SAID) > 100
    assert [said for said in SAID if not NAMED.search(said)] == []


def test_each_test_that_is_named_is_there() -> None:
    """Once, so that its name says which one is meant."""
    there = _there()
    figures = (TESTS / "README.md").read_text()
    named = {(stem, name) for stem, name in NAMED.findall(CONTRACT + figures)}
    assert sorted("::".join(each) for each in named if there[each] != 1) == []


def test_what_looks_like_a_test_is_one() -> None:
    """No name of a test is written in another form, which the tests above would pass over."""
    assert re.findall(r"\btest_\w+", NAMED.sub("", CONTRACT)) == ["test_contract_doc"]


def test_numbers_go_up_by_one() -> None:
    """In each section from 1, so that a sentence can be named by its number."""
    for section in re.split(r"^### ", CONTRACT, flags=re.M):
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, re.M)]
        assert numbers == list(range(1, len(numbers) + 1))


def _size(number: int) -> str:
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"


DEFAULT = config.load({}, {}, Path("/"))


BOUNDS = {
    "one event": [_size(wire.MAX_RECORD)],
    "name of a metric, parameter, context, artifact": [_size(hot._MAX_KEY)],
    "value of a parameter": [f"{params._LONG:,} characters"],
    "fact about an artifact, dataset or model": [f"{recorder._LONG:,} characters"],
    "metric values that wait for a device": [f"{readback.MOST:,} "],
    "layers that a wrapper describes; their arrays": [
        f"{models._LAYERS}, or {models._MOST} by choice",
        _size(models._BYTES),
    ],
    "files of a folder or pattern, each an occurrence": [f"{artifacts._MANY:,}"],
    "sources of `derived_from=`; names that it finds": [
        f"{references._SOURCES}; the last {references._NAMES:,}"
    ],
    "what a process remembers of its occurrences, to name them again": [f"{known.MOST:,}"],
    "open epochs of a producer": [f"{doings._DEEPEST}"],
    "what git says of a working tree": [
        f"{worktree._TIME:.0f} s per question",
        f"{_size(worktree._NAMES)} of names",
        f"{_size(worktree._DIFF)} of diff",
    ],
    "archive of sources": [
        f"{sources._FILES:,} files, {_size(sources._LARGE)} each, {_size(sources._BYTES)}"
    ],
    "variables of the environment": [f"{environment._VARIABLES}, {environment._LONG} characters"],
    "file of which the size is 0 (as in `/proc`)": [_size(handover._SIZELESS)],
    "segment of a journal": [
        f"{_size(journal.SMALLEST)}, doubling to {_size(journal.LARGEST)}",
    ],
    "journal in memory": [_size(spool.MEMORY_SHARE)],
    "all journals of a user on a node": [
        f"`spool_limit`, {DEFAULT.spool_limit >> 30} GiB",
        f"{_size(spool.KEPT_FREE)})",
    ],
    "reserve for what is no metric": [
        f"one segment of {_size(journal.SMALLEST)}",
        f"last {_size(journal._LAST)}",
    ],
    "journal on a network file system": [f"{_size(journal.WRITTEN)} of memory"],
    "batch; on the way without an ack": [f"{_size(wire.MAX_BATCH)}; {_size(outbox.MOST)}"],
    "message": [f"{transport.MAX_MESSAGE:,} bytes"],
    "queue of a socket": [f"{transport._QUEUE} messages"],
    "starts of a collector that does not answer": ["ten in a row" if sender.STARTS == 10 else "?"],
    "connection without an answer": [f"{sender.DEAF:.0f} s, the next {2 * sender.DEAF:.0f} s"],
    "lease of a rank on another host": [
        f"{leases.LEASE:.0f} s of silence",
        f"every {sender.ALIVE:.0f} s",
    ],
    "run of which no rank can be reached": [],
    "run that is over and finds no room": [],
    "file of the event log": [_size(eventlog.SEGMENT)],
    "end of a run": [f"`exit_timeout`, {DEFAULT.exit_timeout:.0f} s"],
    "stream sinks at the end": [f"{publish._SINKS:.0f} s"],
    "document sink without a sign of life (a statement taken, a part given)": [],
    "metric file at the end": ["a million rows" if MetricParts.whole == 1_000_000 else "?"],
    "one segment of an identifier's path": [f"{provdm._MAX_SEGMENT} bytes"],
    "documents while running": [
        f"every {publish._SNAPSHOT:.0f} s, {publish._CHANGED:.0f} s after a change",
        f"{publish._PATIENCE} times the last",
    ],
}
ROWS = {
    cells[1].strip(): cells[2]
    for cells in (
        said.split("|")
        for said in _said(CONTRACT.split("### Bounds\n")[1].split("\n### ")[0])
        if said.startswith("|")
    )
}


def test_every_bound_is_looked_at() -> None:
    """A row that is added is compared with the code, or is said here to have no number there."""
    assert list(ROWS) == list(BOUNDS)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_bounds_are_those_of_the_code(bound: str) -> None:
    """A number that is changed in the code is changed in the contract."""
    assert [part for part in BOUNDS[bound] if part not in ROWS[bound]] == []


def test_the_short_contract_leads_to_this_one() -> None:
    """Who reads the first screen of the README finds the whole."""
    first = (TESTS.parent / "README.md").read_text().split("\n## ")[0]
    assert "(prov4ml/README.md#the-delivery-contract)" in first
