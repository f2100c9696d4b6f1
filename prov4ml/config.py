"""What a user can set: one frozen ``Settings``, and where each value came from.

Arguments of ``start_run`` win over the environment, the environment over the file, the file
over the defaults.  The environment comes in as a mapping; nothing is read at import, and
``load`` reads one file at most.  The file is the first ``prov4ml.toml``, or ``pyproject.toml``
with ``[tool.prov4ml]``, from the working directory upwards; ``PROV4ML_CONFIG`` names another.

Whatever is unknown or of the wrong type raises ``UsageError`` with file, key, value and the
nearest known name; a wrong type of an *argument* is a ``TypeError``.  An empty variable counts
as absent.  A relative ``dir`` is relative to the working directory, wherever it is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from prov4ml import config_values as forms
from prov4ml.config_values import address as check_address
from prov4ml.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from prov4ml.config_file import File

__all__ = [
    "DEFAULT",
    "RECORDED",
    "SINKS",
    "VARIABLES",
    "Settings",
    "check_address",
    "find_file",
    "load",
    "shaping",
]

DEFAULT: Final = ("provjson", "provn", "turtle", "svg", "parquet")
"""The list of sinks where none is given."""

SINKS: Final = (*DEFAULT, "csv", "netcdf", "zarr")
"""The built-in sinks, known without a look at the installed packages."""

RECORDED: Final = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
    *("MKL_NUM_THREADS", "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "NCCL_*", "SLURM_*"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "CONDA_DEFAULT_ENV"),
)
"""Variables that shape what a training computes, and say where it ran."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked.  ``origins`` says of each where it came from."""

    namespace: str = "https://w3id.org/prov4ml/"  # absolute IRI that ends in "/" or "#"
    directory: str = "prov"  # where run directories are made
    sinks: tuple[str, ...] = DEFAULT
    options: dict[str, dict[str, Any]] = {}  # of the sinks on the list, by sink
    detail: str = "series"  # "rank": one entity per series and rank, however many there are
    keep_events: bool = True  # False: the event log goes once the documents are written
    user: bool | str = True  # False: not recorded; a text: recorded under that name
    exit_timeout: float = 10.0  # seconds that end_run may take in all
    spool_limit: int = 2 << 30  # bytes of journals per node
    code: bool = True  # changes and sources of the code, taken in the background
    environment: tuple[str, ...] = RECORDED  # names of variables, and patterns of them
    address: str = "auto"  # "none", or where the collector listens
    on_error: str = "raise"  # "warn": what the user could mend disables the run, with a warning
    disabled: bool = False
    collect_all_processes: bool = True  # False: metrics of rank 0 only
    disable_codecarbon: bool = False  # True: no energy is measured, and nobody misses it
    metrics_file_type: str | None = None  # a sink for metric files, added to the list
    csv_separator: str | None = None
    use_compressor: str | bool | None = None
    use_run_id: int | None = None  # the run is <experiment>_<this>, made or continued
    origins: dict[str, str] = {}


def shaping(settings: Settings) -> dict[str, Any]:
    """The settings that shape documents; they travel with the run, in plain values."""
    shapes: dict[str, Any] = {
        "namespace": settings.namespace,
        "sinks": list(settings.sinks),
        "options": {name: dict(table) for name, table in settings.options.items()},
        "detail": settings.detail,
        "keep_events": settings.keep_events,
    }
    if not settings.collect_all_processes:
        shapes["collect_all_processes"] = False
    return shapes


# ---------------------------------------------------------------------------- one setting


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: where it can be given, and how a value is checked.

    ``check`` raises ``TypeError`` or ``ValueError`` with the bare reason; ``text`` makes a value
    of the text in a variable.
    """

    name: str
    check: Callable[[Any], Any]
    text: Callable[[str], Any] = str
    argument: str | None = None
    variable: str | None = None
    table: str | None = None
    key: str | None = None


SETTINGS: Final = (
    _Setting(
        name="namespace",
        check=forms.namespace,
        argument="prov_user_namespace",
        variable="PROV4ML_NAMESPACE",
        table="run",
        key="namespace",
    ),
    _Setting(
        name="directory",
        check=forms.directory,
        argument="provenance_save_dir",
        variable="PROV4ML_DIR",
        table="run",
        key="dir",
    ),
    _Setting(
        name="sinks",
        check=forms.names,
        text=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        argument="sinks",
        variable="PROV4ML_SINKS",
        table="run",
        key="sinks",
    ),
    _Setting(name="detail", check=forms.one_of("series", "rank"), table="run", key="detail"),
    _Setting(name="keep_events", check=forms.flag, table="run", key="keep_events"),
    _Setting(name="user", check=forms.user, table="run", key="user"),
    _Setting(
        name="code",
        check=forms.flag,
        text=forms.flag_of,
        variable="PROV4ML_CODE",
        table="run",
        key="code",
    ),
    _Setting(name="environment", check=forms.variables, table="run", key="environment"),
    _Setting(
        name="exit_timeout",
        check=forms.seconds,
        text=float,
        variable="PROV4ML_EXIT_TIMEOUT",
        table="run",
        key="exit_timeout",
    ),
    _Setting(
        name="spool_limit",
        check=forms.size,
        variable="PROV4ML_SPOOL_LIMIT",
        table="run",
        key="spool_limit",
    ),
    _Setting(
        name="address",
        check=forms.address,
        variable="PROV4ML_COLLECTOR",
        table="collector",
        key="address",
    ),
    _Setting(name="on_error", check=forms.one_of("raise", "warn"), argument="on_error"),
    _Setting(name="disabled", check=forms.flag, text=forms.flag_of, variable="PROV4ML_DISABLED"),
    _Setting(name="collect_all_processes", check=forms.flag, argument="collect_all_processes"),
    _Setting(name="disable_codecarbon", check=forms.flag, argument="disable_codecarbon"),
    _Setting(name="metrics_file_type", check=forms.text, argument="metrics_file_type"),
    _Setting(name="csv_separator", check=forms.text, argument="csv_separator"),
    _Setting(name="use_compressor", check=forms.compressor, argument="use_compressor"),
    _Setting(name="use_run_id", check=forms.count, argument="use_run_id"),
)

VARIABLES: Final = (
    *(setting.variable for setting in SETTINGS if setting.variable is not None),
    "PROV4ML_CONFIG",
    "PROV4ML_JOB",
    "PROV4ML_RESUME",
    "PROV4ML_SPOOL",
    "PROV4ML_SPOOL_MODE",
)
"""Every variable of the environment that has a meaning, the ones read elsewhere included."""


# ------------------------------------------------------------------------------- all of them


class _Given(msgspec.Struct, frozen=True):
    """A value that somebody gave for a setting."""

    setting: _Setting
    origin: str
    raw: Any


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], directory: Path) -> Settings:
    """The settings for a run that starts in ``directory``.

    ``arguments`` has names of ``start_run`` (prov_user_namespace, provenance_save_dir, sinks,
    on_error, ...); None means not given.  With ``PROV4ML_DISABLED`` no file is read.  Raises
    ``UsageError``, or ``TypeError`` for an argument of the wrong type.
    """
    _warn_of_misspelt(environment)
    by_hand = _in_environment(environment) + _in_arguments(arguments)
    disabled = any(given.setting.name == "disabled" and _checked(given) for given in by_hand)
    file = None if disabled else _file(environment, directory)

    values: dict[str, Any] = {"sinks": DEFAULT}
    origins = {setting.name: "default" for setting in SETTINGS}
    _take(_in_file(file) if file else [], values, origins)
    in_file = values["sinks"]
    _take(by_hand, values, origins)
    if file is not None:
        # A list given by hand may leave out a sink that has a table in the file; one that
        # neither list knows is a mistake in the file.
        tables = _options(file, {*in_file, *values["sinks"]})
        values["options"] = {name: tables[name] for name in values["sinks"] if name in tables}
        _apart(values["sinks"], values["options"], file)
        for name, table in values["options"].items():
            where = file.where(f"sinks.{name}")
            origins.update({f"sinks.{name}.{option}": f"{where} {option}" for option in table})
    _add_metric_files(values, origins)
    return Settings(**values, origins=origins)


def _add_metric_files(values: dict[str, Any], origins: dict[str, str]) -> None:
    """What yProv4ML's keywords say of metric files, as sinks and options."""
    given = {name: values[name] for name in _METRIC_FILES if values.get(name) is not None}
    if not given:
        return
    from prov4ml import config_metrics

    if "metrics_file_type" in given:
        before = values["sinks"]
        values["sinks"] = config_metrics.add_sink(given["metrics_file_type"], before)
        if values["sinks"] != before:
            origins["sinks"] += f", {origins['metrics_file_type']}"
    options = values.get("options", {})
    values["options"] = config_metrics.add_options(options, values["sinks"], given)


_METRIC_FILES: Final = ("metrics_file_type", "csv_separator", "use_compressor")


def _take(given: Iterable[_Given], values: dict[str, Any], origins: dict[str, str]) -> None:
    for item in given:
        name, origin, value = item.setting.name, item.origin, _checked(item)
        if name == "sinks":
            value, complete = _listed(value, values["sinks"], origin)
            origin = origin if complete else f"{origins[name]}, {origin}"
        values[name], origins[name] = value, origin


def _checked(given: _Given) -> Any:
    try:
        return given.setting.check(given.raw)
    except (TypeError, ValueError) as error:
        text = f"{given.origin}: {given.raw!r}: {error}"
        if isinstance(error, TypeError) and given.origin.startswith("start_run("):
            raise TypeError(text) from None
        raise UsageError(text) from None


def _listed(
    names: tuple[str, ...], before: tuple[str, ...], origin: str
) -> tuple[tuple[str, ...], bool]:
    """The list of sinks, and whether it replaces the one ``before``.

    Plain names replace it, ``+name`` adds to it, ``-name`` removes.
    """
    replaces = not names or any(name[0] not in "+-" for name in names)
    listed = [] if replaces else list(before)
    for item in names:
        name = item.lstrip("+-") if item[0] in "+-" else item
        _known(name, origin)
        if item[0] == "-":
            listed = [kept for kept in listed if kept != name]
        elif name not in listed:
            listed.append(name)
    return tuple(listed), replaces


def _known(name: str, where: str) -> None:
    if name not in SINKS:
        from prov4ml import sink

        installed = {*SINKS, *sink.available()}
        if name not in installed:
            raise UsageError(f"{where}: {sink.unknown('sink', name, installed)}")


# ----------------------------------------------------------------- arguments and environment


def _in_arguments(arguments: Mapping[str, Any]) -> list[_Given]:
    known = {setting.argument: setting for setting in SETTINGS if setting.argument}
    strange = sorted(set(arguments) - set(known))
    if strange:
        raise TypeError(f"not a setting among the arguments of start_run: {', '.join(strange)}")
    return [
        _Given(known[name], f"start_run({name}=...)", value)
        for name, value in arguments.items()
        if value is not None
    ]


def _in_environment(environment: Mapping[str, str]) -> list[_Given]:
    found = []
    for setting in SETTINGS:
        text = environment.get(setting.variable, "") if setting.variable else ""
        if text:
            try:
                found.append(_Given(setting, str(setting.variable), setting.text(text)))
            except ValueError as error:
                raise UsageError(f"{setting.variable}: {text!r}: {error}") from None
    return found


def _warn_of_misspelt(environment: Mapping[str, str]) -> None:
    """A variable of ours that we do not know may be of another release; a near miss is not."""
    strange = [
        name for name in environment if name.startswith("PROV4ML_") and name not in VARIABLES
    ]
    if strange:
        import difflib
        import logging

        endings = [name.removeprefix("PROV4ML_") for name in VARIABLES]
        for name in sorted(strange):
            near = difflib.get_close_matches(name.removeprefix("PROV4ML_"), endings, 1, 0.75)
            if near:
                logging.getLogger("prov4ml").warning(
                    "%s is not a variable of prov4ml; did you mean PROV4ML_%s?", name, near[0]
                )


# ----------------------------------------------------------------------------------- the file


def find_file(directory: Path) -> Path | None:
    """The config file for a run that starts in ``directory``, if there is one.

    The first ``prov4ml.toml``, or ``pyproject.toml`` with ``[tool.prov4ml]``, from there upwards
    to a folder with ``.git`` or ``pyproject.toml``, which is the last one looked at.
    """
    from prov4ml import config_file

    return config_file.find_file(directory)


def _file(environment: Mapping[str, str], directory: Path) -> File | None:
    from prov4ml import config_file

    keys: dict[str, list[str]] = {}
    for setting in SETTINGS:
        if setting.table and setting.key:
            keys.setdefault(setting.table, []).append(setting.key)
    return config_file.open_file(environment.get("PROV4ML_CONFIG", ""), directory, keys, "sinks")


def _in_file(file: File) -> list[_Given]:
    found = []
    for setting in SETTINGS:
        table = file.tables.get(setting.table, {}) if setting.table else {}
        if setting.key in table:
            origin = f"{file.where(str(setting.table))} {setting.key}"
            found.append(_Given(setting, origin, table[setting.key]))
    return found


def _options(file: File, listed: set[str]) -> dict[str, dict[str, Any]]:
    """The tables ``[sinks.<name>]``, checked against the sinks themselves."""
    found: dict[str, dict[str, Any]] = {}
    for name, table in file.tables.get("sinks", {}).items():
        where = file.where(f"sinks.{name}")
        _known(name, where)
        if name not in listed:
            names = ", ".join(sorted(listed))
            raise UsageError(f"{where}: {name!r} is not on the list of sinks ({names})")
        if table:
            from prov4ml import sink

            try:
                sink.check_options(name, sink.load(name), table)
                msgspec.msgpack.encode(table)  # options travel with the run
            except (UsageError, OverflowError) as error:
                raise UsageError(f"{where}: {error}") from None
            except MissingExtra:
                raise
            except Exception as error:  # a stranger's import may raise anything
                raise UsageError(f"{where}: {type(error).__name__}: {error}") from error
        if "path" in table:
            try:
                forms.inside(table["path"])
            except (TypeError, ValueError) as error:
                raise UsageError(f"{where} path: {table['path']!r}: {error}") from None
        found[name] = table
    return found


def _apart(names: Iterable[str], options: Mapping[str, Mapping[str, Any]], file: File) -> None:
    """Raise when two document sinks would write the same file."""
    if not any("path" in table for table in options.values()):
        return
    from prov4ml import sink

    writer: dict[str, str] = {}
    for name in names:
        kind = sink.load(name)
        if not sink.is_stream(kind):
            path = os.path.normpath(options.get(name, {}).get("path", f"prov.{kind.suffix}"))
            if path in writer:
                given = name if "path" in options.get(name, {}) else writer[path]
                other = writer[path] if given == name else name
                where = file.where(f"sinks.{given}")
                raise UsageError(f"{where} path: {path!r}: the sink {other!r} writes that file")
            writer[path] = name
