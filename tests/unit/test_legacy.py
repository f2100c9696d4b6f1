"""How the versions of yProv4ML are called: orders, keywords, enumerations."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import prov4ml
from prov4ml import current, legacy
from prov4ml.run import Run


class Stage(Enum):
    """A context of the user's own, as yProv4ML's manual shows it."""

    PREPROCESSING = 3


@pytest.mark.parametrize(
    ("thing", "name", "wanted"),
    [
        ([1], "label", ([1], "label")),
        ("label", [1], ([1], "label")),
        ("data.csv", "label", ("data.csv", "label")),  # two texts: our own order
        ("label", Path("data.csv"), (Path("data.csv"), "label")),
        (Path("data.csv"), "label", (Path("data.csv"), "label")),
        (b"weights", "model", (b"weights", "model")),
        ("model", b"weights", (b"weights", "model")),
        ("model", None, (None, "model")),
        ([1], [2], ([1], [2])),  # no name at all: refused by the call, by name
    ],
)
def test_a_thing_and_its_name_in_either_order(thing: Any, name: Any, wanted: Any) -> None:
    """Whatever is no text is the thing."""
    assert legacy.named(thing, name) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("a.txt", None, None, None), ("a.txt", None, None, None)),
        (("name", "a.txt", "training", 3), ("name", "a.txt", "training", 3)),
        (("name", Path("a.txt"), None, None), ("name", Path("a.txt"), None, None)),
        ((Path("a.txt"), "name", None, None), ("name", Path("a.txt"), None, None)),
        (
            ("a.txt", prov4ml.Context.TRAINING, None, None),
            ("a.txt", None, prov4ml.Context.TRAINING, None),
        ),
        (("a.txt", Stage.PREPROCESSING, None, 7), ("a.txt", None, Stage.PREPROCESSING, 7)),
        (
            ("a.txt", prov4ml.Context.TRAINING, 4, None),
            ("a.txt", None, prov4ml.Context.TRAINING, 4),
        ),
    ],
)
def test_the_orders_of_log_artifact(given: Any, wanted: Any) -> None:
    """A member of an enumeration is a context, a path is a path."""
    assert legacy.artifact(*given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("digits", None), ("digits", None)),
        (("digits", "www.example.org"), ("digits", "www.example.org")),
        (("www.example.org", "digits"), ("digits", "www.example.org")),
        (("https://example.org/a#", "digits"), ("digits", "https://example.org/a#")),
        (("digits", "example"), ("digits", "example")),
        (("www.a.org", "www.b.org"), ("www.a.org", "www.b.org")),
        (("www.a.org", None), ("www.a.org", None)),
    ],
)
def test_the_orders_of_start_run(given: Any, wanted: Any) -> None:
    """Namespace and experiment change places only where one of them must be an address."""
    assert legacy.experiment(*given) == wanted


def test_a_text_or_a_flag_in_one_place() -> None:
    """yProv4ML has a flag where our calls have a context or a name."""
    assert legacy.either("training", True) == ("training", True)
    assert legacy.either(False, True) == (None, False)
    assert legacy.either(None, False) == (None, False)


def test_two_names_of_one_keyword_are_not_given_at_once() -> None:
    """Neither is preferred silently."""
    assert legacy.one_of_two("f", a=None, b=3) == 3
    assert legacy.one_of_two("f", a=None, b=None) is None
    assert legacy.one_of_two("f", a=False, b=None) is False
    with pytest.raises(TypeError, match=r"f\(\) got a and b, which mean the same"):
        legacy.one_of_two("f", a=1, b=2)


@pytest.mark.parametrize(
    ("call", "keyword", "hint"),
    [
        (prov4ml.start_run, "experiment", "did you mean 'experiment_name'"),
        (prov4ml.start_run, "prov_namespace", "did you mean 'prov_user_namespace'"),
        (prov4ml.start_run, "xyzzy", "it has experiment_name, prov_user_namespace"),
        (prov4ml.end_run, "create_grph", "did you mean 'create_graph'"),
        (prov4ml.end_run, "xyzzy", "it has create_graph, create_svg"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest(
    call: Any, keyword: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything else happens."""
    monkeypatch.setenv("PROV4ML_DISABLED", "1")
    arguments = ("e",) if call is prov4ml.start_run else ()
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'; {hint}"):
        call(*arguments, **{keyword: 1})
    assert prov4ml.active_run() is None


def test_the_enumerations_have_the_members_of_all_versions() -> None:
    """And their values are the texts that may be given instead."""
    assert prov4ml.Contexts is prov4ml.Context
    assert {str(c) for c in prov4ml.Context} == {
        "training",
        "validation",
        "testing",
        "evaluation",
        "datasets",
        "models",
    }
    assert [m.name for m in prov4ml.MetricsType] == ["CSV", "ZARR", "NETCDF", "PARQUET"]
    assert str(prov4ml.MetricsType.ZARR) == "zarr"
    assert str(prov4ml.CompressorType.GZIP) == "gzip"


# What yProv4ML's manuals of 1.x, 2.x and 3.x write: positional names in order, keywords.
COMMON = "experiment_name prov_user_namespace collect_all_processes save_after_n_logs rank"
DOCUMENTED = {
    "start_run": [
        f"{COMMON} provenance_save_dir disable_codecarbon",
        f"{COMMON} prov_save_path metrics_file_type csv_separator use_compressor",
        f"{COMMON} provenance_save_dir metrics_file_type csv_separator use_compressor use_run_id",
    ],
    "end_run": ["create_graph create_svg", "create_graph create_svg crate_ro_crate"],
    "log_param": ["key value", "key value context source is_input"],
    "log_metric": ["key value context step source", "key value context step source timestamp"],
    "log_artifact": [
        "artifact_name artifact_path context step timestamp log_copy_in_prov_directory",
        "artifact_name artifact_path context step log_copy_in_prov_directory is_model is_input",
    ],
    "log_model": [
        "model model_name log_model_info log_model_layers log_as_artifact",
        "model_name model log_model_info log_model_layers is_input",
    ],
    "save_model_version": [
        "model model_name context step timestamp",
        "model_name model context step incremental is_input",
    ],
    "log_dataset": ["dataset label", "dataset_label dataset log_dataset_info"],
    "log_system_metrics": ["context step synchronous timestamp"],
    "log_carbon_metrics": ["context step"],
    "log_input": ["inp log_copy_in_prov_directory"],
    "log_output": ["out log_copy_in_prov_directory"],
    "log_source_code": ["path"],
    "log_execution_command": ["cmd path"],
    "log_context": ["context is_subcontext_of"],
    "log_flops_per_batch": ["label model batch context step"],
    "log_flops_per_epoch": ["label model dataset context step"],
    "log_current_execution_time": ["label context step"],
    "log_execution_start_time": [""],
    "log_execution_end_time": [""],
    "register_final_metric": ["metric_name initial_value fold_operation"],
}


@pytest.mark.parametrize(
    ("call", "names"), [(call, names) for call, forms in DOCUMENTED.items() for names in forms]
)
def test_every_documented_keyword_is_taken(call: str, names: str) -> None:
    """By the function of the module and by the method of a run."""
    takers = [getattr(current, call)]
    if call not in ("start_run", "log_metric"):
        takers.append(getattr(Run, call))
    for taker in takers:
        assert set(names.split()) <= set(inspect.signature(taker).parameters)


def test_module_functions_and_methods_take_the_same() -> None:
    """Names, order and defaults."""
    for name in current.__all__:
        function, method = getattr(current, name), getattr(Run, name, None)
        if not inspect.isfunction(function) or not inspect.isfunction(method):
            continue
        ours = list(inspect.signature(function).parameters.values())
        theirs = list(inspect.signature(method).parameters.values())[1:]
        kept = [p for p in theirs if p.name not in ("error", "status", "exit_code")]
        assert [(p.name, p.default, p.kind) for p in ours] == [
            (p.name, p.default, p.kind) for p in kept
        ], name
