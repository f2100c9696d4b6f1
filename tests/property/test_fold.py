"""Whatever way a log arrives, the same is known of the run, and its statements are sound."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prov4ml.model import document, statements
from prov4ml.provdm import Statement
from prov4ml.state import RunState
from prov4ml.testing.constraints import violations
from prov4ml.testing.samples import samples
from prov4ml.testing.streams import Log, arrivals, folded, logs

some = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def told(state: RunState) -> list[str]:
    """The statements in order, every bit of every number told apart (NaN equals NaN)."""
    return [repr(s) for s in statements(state)]


def straight(log: Log) -> RunState:
    """The fold of a log in which each producer's pieces come one after the other, uncut."""
    return folded((p, first, events) for p, pieces in log.items() for first, events in pieces)


@some
@given(st.data())
def test_order_cuts_and_repeats_change_no_statement(data: st.DataObject) -> None:
    """Any interleaving of producers, any cut and any repetition of batches: the same list."""
    log = data.draw(logs())
    expected = told(straight(log))
    assert expected  # there is always a process that said who it is
    assert told(folded(data.draw(arrivals(log)))) == expected


@some
@given(logs())
def test_statements_of_any_log_are_sound(log: Log) -> None:
    """No log, however odd, makes statements that break a rule of PROV-CONSTRAINTS."""
    assert violations(document(straight(log))) == []


@some
@given(logs())
def test_a_document_can_be_read_again(log: Log) -> None:
    """Each pass over a document gives the same statements, and changes nothing in the state."""
    state = straight(log)
    made = document(state)
    first: list[Statement] = list(made.statements())
    assert list(map(repr, made.statements())) == list(map(repr, first))
    assert made.prefixes == document(state).prefixes


@pytest.mark.parametrize("name", samples())
def test_statements_of_the_samples_are_sound(name: str) -> None:
    """The sample runs (500 ranks, odd names, failed, resumed, ...) make sound statements."""
    assert violations(document(samples()[name]())) == []
