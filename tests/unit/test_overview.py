"""The picture of a run: what it chooses to show, and what it refuses to invent."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from prov4ml import events as ev
from prov4ml import model
from prov4ml.overview import picture
from prov4ml.overview_best import better
from prov4ml.overview_words import clip, duration, number, pack, size
from prov4ml.picture import Box, Picture
from prov4ml.provdm import Element, iri
from prov4ml.testing import samples as made

SAMPLES = sorted(made.samples())


def boxes(drawing: Picture) -> dict[str, Box]:
    agent = (drawing.agent,) if drawing.agent else ()
    return {b.key: b for b in (*agent, *drawing.inputs, *drawing.activities, *drawing.outputs)}


def titled(drawing: Picture, start: str) -> Box:
    return next(b for b in boxes(drawing).values() if b.title.startswith(start))


def checkpoint(n: int, step: int | None, epoch: int | None = None, rank: int = 0) -> ev.Artifact:
    return ev.Artifact(
        made.START + n * 10**9,
        n,
        "checkpoint",
        "net",
        step=step,
        epoch=epoch,
        use="generated",
    )


def run_with(*events: ev.Event) -> Picture:
    stream = made.sample_events(logged=False)
    producer = next(iter(stream))
    stream[producer][1:1] = events
    return picture(made.fold(stream))


def validation(name: str, points: list[tuple[int | None, int | None, float]]) -> list[ev.Event]:
    found: list[ev.Event] = [ev.SeriesDefined(0, name, ("validation",))]
    for at, (step, epoch, value) in enumerate(points):
        found.append(ev.Point(0, made.START + at, value, step, epoch))
    return found


def test_the_title_is_what_people_wrote() -> None:
    """The name of a run directory is percent-encoded; its picture says it plainly."""
    stream = made.sample_events(logged=False)
    for events in stream.values():
        if isinstance(events[0], ev.Started):
            events[0] = structs.replace(events[0], name="a%20%3C%26%3E%20b_0")
    assert picture(made.fold(stream)).title == "a <&> b_0"


@pytest.mark.parametrize("name", SAMPLES)
def test_bounded_and_consistent(name: str) -> None:
    """Every run gives few boxes of at most six rows, unique keys, and arrows between them."""
    drawing = picture(made.samples()[name]())
    found = boxes(drawing)
    everything = [*drawing.inputs, *drawing.activities, *drawing.outputs]
    assert len({b.key for b in everything}) == len(everything)
    assert 1 <= len(everything) <= 24
    for box in found.values():
        assert len(box.lines) + len(box.sparklines) + bool(box.alert) <= 6
        assert all(0 < len(line) <= 120 for line in box.lines)
        assert box.inside == "" or box.inside in found
        assert len(box.tooltip) < 25_000
    for arrow in drawing.arrows:
        assert arrow.source in found
        assert arrow.target in found


@pytest.mark.parametrize("name", ["two-ranks", "resumed", "crowded", "failed"])
def test_order_of_arrival_does_not_matter(name: str) -> None:
    """The same streams in another order of producers give the same picture."""
    options = {
        "two-ranks": {"ranks": 2},
        "resumed": {"ranks": 2, "attempts": 2, "nested": True},
        "crowded": {"ranks": 3, "params": 50, "contexts": 9},
        "failed": {"ranks": 2, "status": "failed"},
    }[name]
    streams = made.sample_events(**options)  # type: ignore[arg-type]
    backwards = dict(reversed(streams.items()))
    assert picture(made.fold(streams)) == picture(made.fold(backwards))


@pytest.mark.parametrize("name", SAMPLES)
def test_remark_and_links_are_true(name: str) -> None:
    """The count of nodes is that of the documents, and boxes link to nodes that stand there."""
    state = made.samples()[name]()
    drawing = picture(state)
    document = model.document(state)
    ids = {iri(document, s.id) for s in document.statements() if isinstance(s, Element)}
    linked = {box.iri for box in boxes(drawing).values() if box.iri}
    assert linked <= ids
    if not ids:
        assert drawing.remark == ""
        return
    told = re.match(r"drawn: ([\d,]+) of ([\d,]+) nodes", drawing.remark)
    assert told is not None
    drawn, total = (int(n.replace(",", "")) for n in told.groups())
    assert total == len(ids)
    assert len(linked) - 1 <= drawn <= total  # the store that the series link to has no box
    assert drawing.remark.endswith("all of them: prov.json, prov.provn, prov.ttl")


def test_remark_names_the_files_that_are_written() -> None:
    """The remark sends nobody to a file that no sink writes."""
    streams = made.sample_events()
    opened = ev.RunOpened(
        made.START, made.RUN, "/data", ("turtle", "svg"), {"turtle": {"path": "graph.ttl"}}
    )
    streams[made.COLLECTOR][1] = opened
    assert picture(made.fold(streams)).remark.endswith(" · all of them: graph.ttl")
    streams[made.COLLECTOR][1] = ev.RunOpened(made.START, made.RUN, "/data", ("svg",))
    assert picture(made.fold(streams)).remark.endswith(" nodes")


def test_demo_says_what_happened() -> None:
    """Status, duration, ranks and accounting stand in the subtitle; the final model stands out."""
    drawing = picture(made.sample_state(epochs=20, batches=45))
    assert drawing.title == "digits_0"
    sent = "1,963 events sent, 1,963 received, 0 lost"
    assert drawing.subtitle == f"finished · 44.0 s · 1 rank · {sent}"
    final = [b for b in drawing.outputs if b.emphasis]
    assert [b.note for b in final] == ["final model"]
    assert "= checkpoint 20, byte for byte" in final[0].lines
    assert titled(drawing, "checkpoint 1").note == "1 of 20"
    assert titled(drawing, "7 parameters").lines[0] == "lr 0.001 · batch_size 32 · epochs 5"
    assert titled(drawing, "digits").lines[1] == "split: train 1,437 · validation 360"


def test_lost_events_are_counted() -> None:
    """What did not arrive is said in the first line."""
    drawing = picture(made.sample_state(lost=17))
    assert drawing.subtitle.endswith("155 events sent, 138 received, 17 lost")


def test_many_ranks_are_one_box() -> None:
    """500 ranks are one activity that says how they ended; values are means, and say so."""
    drawing = picture(made.sample_state(500, 2, batches=2, status="died"))
    run = boxes(drawing)["run"]
    assert run.title == "run ×500 ranks"
    assert "ranks: 1 died, 499 finished" in run.lines
    assert run.alert == "rank 499 vanished, nobody saw why"
    assert titled(drawing, "63 machines").lines[-1] == "each 64 cores · 512 GiB · Linux 6.1"
    series = titled(drawing, "2 series of training")
    assert series.lines == ("means over 500 ranks",)
    state = made.sample_state(3, 2)
    lasts = [
        s.last
        for p in state.producers.values()
        for s in p.series.values()
        if s.name == "loss" and s.context == ("training",)
    ]
    curve = boxes(picture(state))["series:context/training"].sparklines[0]
    assert curve.value == number(sum(v for v in lasts if v is not None) / 3)
    assert "mean over 3 ranks" in curve.tooltip


def test_failed_run_shows_its_error() -> None:
    """The error's type and message stand in the run, in the tone of bad news."""
    drawing = picture(made.sample_state(2, status="failed"))
    run = boxes(drawing)["run"]
    assert (drawing.tone, run.tone, run.note) == ("bad", "bad", "failed")
    assert run.alert == "RuntimeError: CUDA error: out of memory"
    assert "ranks: 1 failed, 1 stopped" in run.lines


def test_running_run_claims_no_end() -> None:
    """A run that is not over is called running, its duration so far."""
    drawing = picture(made.sample_state(status="running"))
    assert drawing.subtitle.startswith("running · ")
    assert " so far · " in drawing.subtitle


def test_nothing_logged() -> None:
    """A run that logged nothing says so and has no outputs."""
    drawing = picture(made.sample_state(logged=False))
    assert "nothing was logged" in boxes(drawing)["run"].lines
    assert drawing.outputs == ()


def test_crowd_is_gathered_and_counted() -> None:
    """200 parameters, 60 series and 40 contexts: some shown, the number of the rest said."""
    drawing = picture(made.sample_state(4, params=200, series=58, contexts=38))
    assert titled(drawing, "200 parameters").lines[-1].endswith("+ 191 more")
    assert len([b for b in drawing.activities if b.inside == "run"]) == 4
    assert titled(drawing, "37 more contexts").lines
    assert titled(drawing, "60 series of training").lines[0].startswith("+ 58 more series")


def test_checkpoints_first_best_last() -> None:
    """The checkpoint saved where a validation metric was best is starred; the middle is counted."""
    drawing = run_with(
        *(checkpoint(n, n * 10) for n in range(1, 6)),
        *validation("val_loss", [(10, None, 3.0), (20, None, 1.0), (30, None, 2.0)]),
    )
    titles = [b.title for b in drawing.outputs if b.title.startswith("checkpoint")]
    assert titles == ["checkpoint 1", "checkpoint 2 ★ best", "checkpoint 5"]
    assert "val_loss 1 in validation" in titled(drawing, "checkpoint 2").lines
    labels = [a.label for a in drawing.arrows if a.label.startswith("revision")]
    assert labels == ["revision of", "revision of · 2 between"]


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("val_loss", [(10, None, 3.0), (25, None, 1.0)]),  # best where nothing was saved
        ("speed", [(10, None, 3.0), (20, None, 1.0)]),  # nobody knows which way is better
        ("loss", [(10, 1, 3.0), (20, 7, 1.0)]),  # the epochs disagree
        ("loss", [(10, None, 3.0), (10, None, 2.0), (10, None, 1.0)]),  # a step that repeats
        ("loss", [(None, 1, float(v)) for v in range(30)]),  # one epoch, 30 points
        ("loss", [(10, None, float("nan")), (20, None, 1.0)]),
    ],
)
def test_no_best_without_evidence(
    name: str, points: list[tuple[int | None, int | None, float]]
) -> None:
    """No checkpoint is called best unless a validation metric tells it."""
    drawing = run_with(*(checkpoint(n, n * 10, n) for n in range(1, 4)), *validation(name, points))
    shown = [b.title for b in drawing.outputs if b.title.startswith("checkpoint")]
    assert shown == ["checkpoint 1", "checkpoint 3"]


@pytest.mark.parametrize(
    ("name", "way"),
    [("Accuracy", 1), ("val_acc", 1), ("loss", -1), ("top1_error", 0), ("fps", 0), ("RMSE", -1)],
)
def test_better(name: str, way: int) -> None:
    """A metric's name says which way is better, or that nobody can tell."""
    assert better(name) == way


@pytest.mark.parametrize("use", ["used", "generated"])
def test_a_folder_stands_for_its_files(use: str) -> None:
    """A thousand files of one folder are one thing in the picture."""
    time = made.START + 10**9
    folder = ev.Artifact(time, 1, "artifact", "plots", use=use, attributes={"files": 1000})
    files = [
        ev.Artifact(time + n, n, "artifact", f"plots/{n}", use=use, folder=1)
        for n in range(2, 1002)
    ]
    texts = [line for box in boxes(run_with(folder, *files)).values() for line in box.lines]
    titles = [box.title for box in boxes(run_with(folder, *files)).values()]
    assert any("plots" in text for text in (*titles, *texts))
    assert not any("plots/" in text for text in (*titles, *texts))


def test_missing_bytes_are_said() -> None:
    """An artifact that could not be stored carries the reason in red."""
    streams = made.sample_events(epochs=1)
    producer = next(iter(streams))
    collector = [
        ev.Stored(e.time, e.producer, e.n, None, None, None, "No space left on device")
        if isinstance(e, ev.Stored) and e.n == 2
        else e
        for e in streams[made.COLLECTOR]
    ]
    drawing = picture(made.fold({producer: streams[producer], made.COLLECTOR: collector}))
    assert titled(drawing, "digits").alert == "not stored: No space left on device"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97531, "0.9753"),
        (1.2e-5, "1.2e-5"),
        (float("nan"), "NaN"),
        (float("-inf"), "−∞"),
        (3.0, "3"),
        (1e300, "1e+300"),
    ],
)
def test_number(value: float, text: str) -> None:
    """Numbers are short, NaN and infinities included."""
    assert number(value) == text


def test_words() -> None:
    """Durations, sizes and cut texts read as people write them."""
    ms = 10**6
    times = [0, 12 * ms, 9_940 * ms, 59_990 * ms, 192_000 * ms, 7_500_000 * ms, 360_000_000 * ms]
    assert [duration(t) for t in times] == [
        "< 1 ms",
        "12 ms",
        "9.9 s",
        "60.0 s",
        "3 min 12 s",
        "2 h 05 min",
        "4 d 4 h",
    ]
    assert [size(n) for n in (1, 999, 1500, 341_002, 999_960, 5 * 10**12)] == [
        "1 byte",
        "999 bytes",
        "1.5 kB",
        "341 kB",
        "1.0 MB",
        "5 TB",
    ]
    assert size(2**39, 1024) == "512 GiB"
    assert clip("a" * 50, 10) == "a" * 9 + "…"


def test_pack_counts_what_it_shows() -> None:
    """Items fill lines; the last line says how many more there are."""
    lines, shown = pack([f"item{i}" for i in range(20)], 2, 30)
    assert all(len(line) <= 30 for line in lines)
    assert lines[-1].endswith(f"+ {20 - shown} more")
    assert pack(["a", "b"], 1) == (["a · b"], 2)
    assert pack([], 3) == ([], 0)
