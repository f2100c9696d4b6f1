"""Every public name of the installed MLflow is here with its signature, or says what to use."""

from __future__ import annotations

import ast
import dis
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import prov4ml.compat.mlflow as ours
from prov4ml.compat.mlflow import _instead, data, models, pytorch, sklearn

SPEC = find_spec("mlflow")
needs_mlflow = pytest.mark.skipif(SPEC is None, reason="mlflow-skinny is not installed")

# what MLflow has, imported in a process of its own: it starts threads and speaks to the network
ASK = """
import inspect, json, mlflow
names, shown = sorted(set(mlflow.__all__)), {}
for name in names:
    value = getattr(mlflow, name)
    if inspect.isfunction(value):
        shown[name] = [[p.name, p.kind.name, None if p.default is p.empty else repr(p.default)]
                       for p in inspect.signature(value).parameters.values()]
flavors = [n for n, v in vars(mlflow).items() if type(v).__name__ == "LazyLoader"]
print(json.dumps([names, shown, flavors]))
"""


@pytest.fixture(scope="module")
def theirs() -> tuple[list[str], dict[str, Any], list[str]]:
    """Public names, signatures of the functions among them, modules of flavors."""
    if SPEC is None:
        pytest.skip("mlflow-skinny is not installed")
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    names, shown, flavors = json.loads(done.stdout.splitlines()[-1])
    return names, shown, flavors


def parameters(function: Callable[..., Any]) -> list[list[str | None]]:
    """Name, kind and default of each parameter of a function of ours."""
    return [
        [p.name, p.kind.name, None if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


def test_functions_have_the_signatures_of_mlflow(theirs: Any) -> None:
    """Order, kind and default of each argument are MLflow's."""
    _, shown, _ = theirs
    mine = [name for name in ours.__all__ if inspect.isfunction(getattr(ours, name))]
    assert len(mine) > 30
    assert {name: parameters(getattr(ours, name)) for name in mine} == {
        name: shown[name] for name in mine
    }


def test_each_name_is_here_or_says_what_to_use(theirs: Any) -> None:
    """No public name or flavor of MLflow is met with a bare "no attribute"."""
    names, _, flavors = theirs
    assert len(names) > 100
    assert len(flavors) > 20
    for name in {*names, *flavors} - set(ours.__all__):
        with pytest.raises(AttributeError, match=f"mlflow.{name} is not there: [^ ]"):
            getattr(ours, name)
        assert not hasattr(ours, name)


def test_nothing_is_promised_that_mlflow_does_not_have(theirs: Any) -> None:
    """What we offer is MLflow's, and the table names only what is missing here."""
    names, _, _ = theirs
    modules = {"data", "exceptions", "models", "pytorch", "sklearn"}
    assert set(ours.__all__) - set(names) - modules == {"ActiveRun", "Experiment"} - set(names)
    assert not set(_instead.INSTEAD) & set(ours.__all__)
    for name in ours.__all__:
        assert getattr(ours, name) is not None


def test_each_name_stands_in_the_docs() -> None:
    """The table for users has every public name, and no name that is none."""
    page = Path(ours.__file__).parents[2] / "docs" / "logging.md"
    text = page.read_text().split("## Scripts for MLflow\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(ours.__all__)


def test_an_import_of_what_is_missing_says_so_too() -> None:
    """``from ... import`` gives the same text, as an ImportError; other names stay plain."""
    with pytest.raises(ImportError, match="MlflowClient is not there: the functions"):
        exec("from prov4ml.compat.mlflow import MlflowClient")
    with pytest.raises(AttributeError, match=r"^module 'prov4ml.compat.mlflow' has no .* 'logg'$"):
        ours.logg  # noqa: B018
    with pytest.raises(AttributeError, match="load_model is not there: stored models"):
        sklearn.load_model  # noqa: B018
    assert "IMPORT_FROM" in dis.opmap


# ------------------------------------------------------- what MLflow does not export by name


def defined(path: str, *names: str) -> Iterator[tuple[str, list[list[str | None]]]]:
    """Functions as they stand in a file of MLflow: importing it needs more than is installed."""
    assert SPEC is not None
    assert SPEC.origin is not None
    tree = ast.parse((Path(SPEC.origin).parent / path).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            a = node.args
            plain = [*a.posonlyargs, *a.args]
            gap: list[ast.expr | None] = [None] * (len(plain) - len(a.defaults))
            found = [
                [p.arg, "POSITIONAL_OR_KEYWORD", None if d is None else ast.unparse(d)]
                for p, d in zip(plain, [*gap, *a.defaults], strict=True)
            ]
            if a.kwarg is not None:
                found.append([a.kwarg.arg, "VAR_KEYWORD", None])
            yield node.name, found


CASES = [
    (sklearn, "sklearn/__init__.py", ["log_model", "autolog"]),
    (pytorch, "pytorch/__init__.py", ["log_model", "log_state_dict", "autolog"]),
    (data, "data/numpy_dataset.py", ["from_numpy"]),
    (data, "data/pandas_dataset.py", ["from_pandas"]),
    (data, "data/polars_dataset.py", ["from_polars"]),
    (data, "data/huggingface_dataset.py", ["from_huggingface"]),
    (models, "models/signature.py", ["infer_signature"]),
]


@needs_mlflow
@pytest.mark.parametrize(("module", "path", "names"), CASES, ids=[case[1] for case in CASES])
def test_functions_of_its_modules_have_their_signatures(
    module: Any, path: str, names: list[str]
) -> None:
    """Names and order are MLflow's, and so are the defaults that are written as values."""
    theirs = dict(defined(path, *names))
    assert sorted(theirs) == sorted(names)
    for name in names:
        mine = parameters(getattr(importlib.import_module(module.__name__), name))
        for got, wanted in zip(mine, theirs[name], strict=True):
            assert got[:2] == wanted[:2], name
            if got[0] not in ("await_registration_for", "serialization_format"):  # constants there
                assert got[2] == wanted[2], (name, got)
