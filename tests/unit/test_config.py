"""Settings: who wins, what an error says, what is read and what is not."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import config, sink
from prov4ml.errors import UsageError
from prov4ml.legacy import CompressorType, MetricsType


class Reference:
    """A document sink with one option."""

    suffix = "ref"
    options = {"indent": "spaces per level"}  # noqa: RUF012 (a sink is no place for ClassVar noise)

    def render(self, document: object) -> Any:
        yield b""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()  # the search for a file ends here
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more sink than the built-in ones, and all of them like ``Reference``."""
    names = dict.fromkeys((*config.SINKS, "reference"))
    monkeypatch.setattr(sink, "available", lambda: names)
    monkeypatch.setattr(sink, "load", lambda name: Reference)


def load(folder: Path, text: str = "", **environment: str) -> config.Settings:
    (folder / "prov4ml.toml").write_text(text)
    return config.load({}, environment, folder)


def complaint(folder: Path, text: str = "", **environment: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, text, **environment)
    return str(caught.value)


# ----------------------------------------------------------------------------- precedence


def test_defaults(folder: Path) -> None:
    """With nothing given, everything is at its default and says so."""
    settings = config.load({}, {}, folder)
    assert settings.namespace == "https://w3id.org/prov4ml/"
    assert settings.directory == "prov"
    assert settings.sinks == ("provjson", "provn", "turtle", "svg", "parquet")
    assert (settings.exit_timeout, settings.spool_limit) == (10.0, 2 * 1024**3)
    assert (settings.address, settings.on_error, settings.disabled) == ("auto", "raise", False)
    assert (settings.keep_events, settings.detail, settings.user) == (True, "series", True)
    assert settings.options == {}
    fields = {field.name for field in msgspec.structs.fields(config.Settings)}
    assert set(settings.origins) == fields - {"options", "origins"}
    assert set(settings.origins.values()) == {"default"}


def test_arguments_beat_environment_beats_file(folder: Path) -> None:
    """The nearest to the call wins, and the origin names it."""
    file = folder / "prov4ml.toml"
    file.write_text('[run]\ndir = "f"\nexit_timeout = 3\nnamespace = "https://f.example/"\n')
    settings = config.load(
        {"prov_user_namespace": "https://a.example/", "on_error": None},
        {"PROV4ML_DIR": "e", "PROV4ML_NAMESPACE": "https://e.example/"},
        folder,
    )
    assert (settings.namespace, settings.directory) == ("https://a.example/", "e")
    assert settings.exit_timeout == 3.0
    assert settings.origins["namespace"] == "start_run(prov_user_namespace=...)"
    assert settings.origins["directory"] == "PROV4ML_DIR"
    assert settings.origins["exit_timeout"] == f"{file}: [run] exit_timeout"
    assert settings.origins["on_error"] == "default"


def test_every_variable_is_read(folder: Path) -> None:
    """Each variable sets its setting; an empty one counts as absent."""
    settings = load(
        folder,
        PROV4ML_SINKS="provn, svg",
        PROV4ML_COLLECTOR="none",
        PROV4ML_DISABLED="1",
        PROV4ML_DIR="",
        PROV4ML_EXIT_TIMEOUT="2.5",
        PROV4ML_SPOOL_LIMIT="64MiB",
    )
    assert settings.sinks == ("provn", "svg")
    assert (settings.address, settings.disabled) == ("none", True)
    assert (settings.directory, settings.origins["directory"]) == ("prov", "default")
    assert (settings.exit_timeout, settings.spool_limit) == (2.5, 64 << 20)


def test_a_whole_file(folder: Path, installed: None) -> None:
    """Every key of every table arrives, with file, table and key as its origin."""
    settings = load(
        folder,
        """
        [run]
        namespace = "www.example.org"
        dir = "out"
        sinks = ["turtle", "reference"]
        exit_timeout = 1
        spool_limit = "500MB"
        keep_events = false
        detail = "rank"
        user = "someone"
        [collector]
        address = "tcp://127.0.0.1:5557"
        [sinks.turtle]
        path = "graphs/graph.ttl"
        [sinks.reference]
        indent = 2
        """,
    )
    assert settings.namespace == "http://www.example.org/"
    assert (settings.directory, settings.sinks) == ("out", ("turtle", "reference"))
    assert (settings.spool_limit, settings.keep_events) == (500_000_000, False)
    assert (settings.detail, settings.user) == ("rank", "someone")
    assert settings.address == "tcp://127.0.0.1:5557"
    assert settings.options == {"turtle": {"path": "graphs/graph.ttl"}, "reference": {"indent": 2}}
    where = f"{folder / 'prov4ml.toml'}: [sinks.reference] indent"
    assert settings.origins["sinks.reference.indent"] == where


def test_disabled_reads_no_file(folder: Path) -> None:
    """The switch that must always work works beside a broken file."""
    assert load(folder, "no toml at all", PROV4ML_DISABLED="yes").disabled
    complaint(folder, "no toml at all", PROV4ML_DISABLED="0")


# ---------------------------------------------------------------------------------- sinks


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["provn"], ("provn",)),
        ([], ()),
        (["+provn"], ("svg", "turtle", "provn")),
        (["-svg"], ("turtle",)),
        (["-svg", "+provn", "+turtle"], ("turtle", "provn")),
        (["provjson", "+provn", "-provjson"], ("provn",)),
        (("svg", "svg"), ("svg",)),
    ],
)
def test_lists_replace_add_and_remove(
    folder: Path, given: list[str], expected: tuple[str, ...]
) -> None:
    """Plain names replace the list, ``+name`` adds to it, ``-name`` removes."""
    (folder / "prov4ml.toml").write_text('[run]\nsinks = ["svg", "turtle"]\n')
    assert config.load({"sinks": given}, {}, folder).sinks == expected


def test_an_added_sink_names_both_origins(folder: Path) -> None:
    """A list that was only changed says what it was and who changed it."""
    settings = load(folder, PROV4ML_SINKS="-svg")
    assert settings.sinks == ("provjson", "provn", "turtle", "parquet")
    assert settings.origins["sinks"] == "default, PROV4ML_SINKS"


def test_the_builtin_names_are_the_installed_ones() -> None:
    """The list that is known without looking equals the entry points of the package."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(config.SINKS) == set(project["project"]["entry-points"][sink.GROUP])


def test_builtin_names_need_no_lookup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages are searched only for a name that is not built in."""
    looked: list[None] = []
    monkeypatch.setattr(sink, "available", lambda: looked.append(None) or {})
    load(folder, '[run]\nsinks = ["svg", "parquet"]\n[sinks.svg]\n')
    assert not looked
    complaint(folder, '[run]\nsinks = ["sparql"]\n')
    assert looked


def test_options_of_a_sink_left_out_by_hand_are_left_out(folder: Path, installed: None) -> None:
    """A shorter list in the environment does not turn the file's tables into mistakes."""
    text = "[sinks.turtle]\nindent = 1\n[sinks.svg]\nindent = 2\n"
    settings = load(folder, text, PROV4ML_SINKS="svg")
    assert settings.options == {"svg": {"indent": 2}}
    assert "sinks.turtle.indent" not in settings.origins


@pytest.mark.parametrize(
    ("text", "given", "other"),
    [
        ("[sinks.turtle]\npath = './prov.svg'\n", "turtle", "svg"),
        ("[sinks.provjson]\npath = 'prov.ttl'\n", "provjson", "turtle"),
        ("[sinks.svg]\npath = 'x'\n[sinks.provn]\npath = 'x'\n", "svg", "provn"),
    ],
)
def test_two_sinks_do_not_write_one_file(folder: Path, text: str, given: str, other: str) -> None:
    """A document that would be overwritten by another is an error that names both sinks."""
    message = complaint(folder, text)
    assert f"[sinks.{given}] path" in message
    assert repr(other) in message
    assert load(folder, text, PROV4ML_SINKS=given).options  # alone there is nothing wrong


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run", ["prov4ml.toml", "not TOML"]),
        ("[rum]\n", ["'rum'", "did you mean 'run'?"]),
        ("run = 3\n", ["run = 3", "must be a table"]),
        ("[run]\nsink = []\n", ["[run]", "'sink'", "did you mean 'sinks'?"]),
        ("[collector]\nadress = 'none'\n", ["[collector]", "did you mean 'address'?"]),
        ("[run]\ndir = 3\n", ["[run] dir", "3", "must be text, not int"]),
        ("[run]\ndir = ''\n", ["[run] dir", "must not be empty"]),
        ("[run]\nnamespace = ''\n", ["[run] namespace", "must not be empty"]),
        ("[run]\nnamespace = 'https://a b/'\n", ["[run] namespace", "' '"]),
        ("[run]\nsinks = 'svg'\n", ["[run] sinks", "must be a list"]),
        ("[run]\nsinks = [1]\n", ["[run] sinks", "must be text, not int"]),
        ("[run]\nsinks = ['turtel']\n", ["[run] sinks", "'turtel'", "did you mean 'turtle'?"]),
        ("[run]\nsinks = ['+']\n", ["[run] sinks", "unknown sink"]),
        ("[run]\nexit_timeout = '10'\n", ["[run] exit_timeout", "'10'", "number of seconds"]),
        ("[run]\nexit_timeout = -1\n", ["[run] exit_timeout", "0 or more"]),
        ("[run]\nexit_timeout = nan\n", ["[run] exit_timeout", "0 or more"]),
        ("[run]\nexit_timeout = true\n", ["[run] exit_timeout", "not bool"]),
        ("[run]\nspool_limit = '2 gallons'\n", ["[run] spool_limit", "2GiB"]),
        ("[run]\nspool_limit = 0\n", ["[run] spool_limit", "more than 0"]),
        ("[run]\nkeep_events = 1\n", ["[run] keep_events", "true or false"]),
        ("[run]\ndetail = 'ranks'\n", ["[run] detail", "'series' or 'rank'"]),
        ("[run]\nuser = 3\n", ["[run] user", "3"]),
        ("[collector]\naddress = 'node0:5557'\n", ["[collector] address", "'node0:5557'"]),
        ("[sinks]\nturtle = 'graph.ttl'\n", ["[sinks] turtle", "must be a table"]),
        ("[sinks.turtel]\n", ["[sinks.turtel]", "did you mean 'turtle'?"]),
        ("[run]\nsinks = ['svg']\n[sinks.turtle]\n", ["[sinks.turtle]", "not on the list"]),
        ("[sinks.turtle]\nident = 2\n", ["[sinks.turtle]", "'ident'", "did you mean 'indent'?"]),
        ("[sinks.turtle]\nindent = 1e400\nx = 1\n", ["'x'"]),
        (f"[sinks.turtle]\nindent = {1 << 70}\n", ["[sinks.turtle]"]),
        ("[sinks.turtle]\npath = '/etc/x'\n", ["[sinks.turtle] path", "inside the run directory"]),
        ("[sinks.turtle]\npath = 'a/../../x'\n", ["[sinks.turtle] path", "'a/../../x'"]),
        ("[sinks.turtle]\npath = ''\n", ["[sinks.turtle] path", "must not be empty"]),
        ("[sinks.turtle]\npath = 3\n", ["[sinks.turtle] path", "must be text"]),
        ("[sinks.turtle]\npath = './run.json'\n", ["[sinks.turtle] path", "another use"]),
        ("[sinks.turtle]\npath = 'metrics/x'\n", ["[sinks.turtle] path", "another use"]),
    ],
)
def test_a_bad_file_is_named_with_key_and_value(
    folder: Path, installed: None, text: str, words: list[str]
) -> None:
    """An error names the file, the key, the value and the nearest known name."""
    message = complaint(folder, text)
    for word in (str(folder / "prov4ml.toml"), *words):
        assert word in message


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PROV4ML_SINKS", "svg,turtel"),
        ("PROV4ML_COLLECTOR", "http://127.0.0.1:1"),
        ("PROV4ML_DISABLED", "maybe"),
        ("PROV4ML_EXIT_TIMEOUT", "soon"),
        ("PROV4ML_SPOOL_LIMIT", "much"),
        ("PROV4ML_NAMESPACE", "a<b"),
        ("PROV4ML_CONFIG", "absent.toml"),
    ],
)
def test_a_bad_variable_is_named(folder: Path, variable: str, text: str) -> None:
    """An error in the environment names the variable (or the file it names) and its text."""
    message = complaint(folder, **{variable: text})
    assert variable in message or "absent.toml" in message
    assert text.rpartition(",")[2] in message


def test_arguments_of_the_wrong_type_are_type_errors(folder: Path) -> None:
    """In Python a wrong type is a TypeError and a wrong value a UsageError; both name it."""
    with pytest.raises(TypeError, match=r"prov_user_namespace.*3.*must be text"):
        config.load({"prov_user_namespace": 3}, {}, folder)
    with pytest.raises(TypeError, match=r"sinks.*'svg'.*list"):
        config.load({"sinks": "svg"}, {}, folder)
    with pytest.raises(UsageError, match=r"provenance_save_dir.*empty"):
        config.load({"provenance_save_dir": ""}, {}, folder)
    with pytest.raises(UsageError, match=r"on_error.*'ignore'.*'raise' or 'warn'"):
        config.load({"on_error": "ignore"}, {}, folder)
    with pytest.raises(TypeError, match="resume"):
        config.load({"resume": True}, {}, folder)


def test_a_path_is_a_directory_too(folder: Path) -> None:
    """``provenance_save_dir`` takes anything that is a path; ``~`` is the home directory."""
    assert config.load({"provenance_save_dir": folder}, {}, folder).directory == str(folder)
    assert config.load({}, {"PROV4ML_DIR": "~/p"}, folder).directory == str(Path.home() / "p")


def test_misspelt_variables_are_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A near miss is said; a variable of another release, or one read elsewhere, is not."""
    known = dict.fromkeys(("PROV4ML_JOB", "PROV4ML_SPOOL", "PROV4ML_RESUME"), "x")
    with caplog.at_level(logging.WARNING, "prov4ml"):
        load(folder, **known, PROV4ML_QUANTUM="1")
        assert not caplog.records
        load(folder, PROV4ML_COLECTOR="none")
    (record,) = caplog.records
    assert "PROV4ML_COLECTOR" in record.getMessage()
    assert "PROV4ML_COLLECTOR" in record.getMessage()


# ------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address",
    [
        "auto",
        "none",
        "tcp://127.0.0.1:5557",
        "tcp://localhost:1",
        "tcp://[::1]:65535",
        "tcp://127.1.2.3:80",
        "ipc:///run/user/0/prov4ml.sock",
    ],
)
def test_good_addresses(address: str) -> None:
    """Loopback and absolute socket paths are taken as they are."""
    assert config.check_address(address) == address


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://node0:5557", "keys are not there yet: bind to loopback"),
        ("tcp://0.0.0.0:5557", "keys are not there yet: bind to loopback"),
        ("tcp://*:5557", "keys are not there yet: bind to loopback"),
        ("tcp://127.0.0.1.example.org:5557", "bind to loopback"),
        ("tcp://127.0.0.1", "must be auto, none, tcp"),
        ("tcp://127.0.0.1:0", "1 to 65535"),
        ("tcp://127.0.0.1:65536", "1 to 65535"),
        ("tcp://127.0.0.1:*", "1 to 65535"),
        ("ipc://relative", "absolute path"),
        ("ipc:///" + "x" * 110, "107 bytes"),
        ("inproc://x", "must be auto, none, tcp"),
        ("", "must not be empty"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    """Anything that is not an address, or not safe yet, says why."""
    with pytest.raises(ValueError, match=reason):
        config.check_address(address)


def test_an_address_to_listen_at_may_leave_the_port_open() -> None:
    """With ``bind`` the port may be ``*``, and "auto" and "none" are no addresses."""
    assert config.check_address("tcp://127.0.0.1:*", bind=True) == "tcp://127.0.0.1:*"
    for word in ("auto", "none"):
        with pytest.raises(UsageError, match="must be tcp"):
            config.check_address(word, bind=True)


# --------------------------------------------------------------------------------- the file


def test_the_nearest_file_upwards_is_found(folder: Path) -> None:
    """The search goes upwards, and ``prov4ml.toml`` comes before ``pyproject.toml``."""
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    assert config.find_file(deep) is None
    project = folder / "pyproject.toml"
    project.write_text("[tool.prov4ml.run]\ndir = 'p'\n")
    assert config.find_file(deep) == project
    settings = config.load({}, {}, deep)
    assert settings.directory == "p"
    assert settings.origins["directory"] == f"{project}: [tool.prov4ml.run] dir"
    own = folder / "prov4ml.toml"
    own.write_text("")
    assert config.find_file(deep) == own
    nearer = deep / "prov4ml.toml"
    nearer.write_text("")
    assert config.find_file(deep) == nearer


@pytest.mark.parametrize("mark", [".git", "pyproject.toml"])
def test_the_search_ends_at_the_project(folder: Path, mark: str) -> None:
    """A folder with ``.git`` or ``pyproject.toml`` is the last one looked at."""
    (folder / "prov4ml.toml").write_text("")
    inner = folder / "inner" / "src"
    inner.mkdir(parents=True)
    assert config.find_file(inner) == folder / "prov4ml.toml"
    if mark == ".git":
        (folder / "inner" / mark).mkdir()
    else:
        (folder / "inner" / mark).write_text("[project]\nname = 'x'\n")
    assert config.find_file(inner) is None


def test_a_broken_foreign_project_file_is_not_our_business(folder: Path) -> None:
    """``pyproject.toml`` is only parsed when it speaks of us; then it must be right."""
    project = folder / "pyproject.toml"
    project.write_text("[broken")
    assert config.find_file(folder) is None
    project.write_text("[tool.prov4ml")
    with pytest.raises(UsageError, match="not TOML"):
        config.find_file(folder)
    project.write_text("[tool]\nprov4ml = 1\n")
    with pytest.raises(UsageError, match="must be a table"):
        config.find_file(folder)


def test_a_named_file_wins(folder: Path) -> None:
    """``PROV4ML_CONFIG`` names the file, relative to the working directory."""
    (folder / "other.toml").write_text("[run]\ndir = 'o'\n")
    assert load(folder, "[run]\ndir = 'x'\n", PROV4ML_CONFIG="other.toml").directory == "o"
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "has no table" in complaint(folder, PROV4ML_CONFIG="pyproject.toml")


# ---------------------------------------------------------------------------------- the rest


def test_what_shapes_documents_can_travel(folder: Path, installed: None) -> None:
    """The subset that goes into the stream survives msgpack, and holds nothing local."""
    settings = load(folder, "[sinks.turtle]\nindent = 2\n", PROV4ML_SINKS="turtle")
    shaped = config.shaping(settings)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(shaped)) == shaped
    assert shaped == {
        "namespace": "https://w3id.org/prov4ml/",
        "sinks": ["turtle"],
        "options": {"turtle": {"indent": 2}},
        "detail": "series",
        "keep_events": True,
    }


def test_the_import_is_light() -> None:
    """Importing the module loads neither a TOML parser nor the machinery for entry points."""
    code = (
        "import sys, prov4ml.config; print(*{'tomllib', 'importlib.metadata'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == []


# --------------------------------------------------------------- keywords of yProv4ML


class Table:
    """A stream sink with the options of a metric file."""

    options = {  # noqa: RUF012
        "separator": 'one character (default ",")',
        "compressor": "none or gzip (default none)",
    }

    def write(self, chunk: object) -> None: ...
    def close(self) -> list[object]:
        return []


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink ``csv``, a stranger's ``feed`` of the same kind and document sink ``reference``."""
    kinds: dict[str, Any] = {"csv": Table, "feed": Table, "reference": Reference}
    names = {**sink.available(), **dict.fromkeys(kinds)}
    plain = sink.load
    monkeypatch.setattr(sink, "available", lambda: names)
    monkeypatch.setattr(sink, "load", lambda name: kinds[name] if name in kinds else plain(name))


@pytest.mark.parametrize("given", ["csv", "CSV", MetricsType.CSV])
def test_a_type_of_metric_files_is_a_sink_more(folder: Path, tables: None, given: Any) -> None:
    """By text or member, with the separator as its option; the origin says why."""
    arguments = {"metrics_file_type": given, "csv_separator": ";"}
    settings = config.load(arguments, {}, folder)
    assert settings.sinks == (*config.DEFAULT, "csv")
    assert settings.options == {"csv": {"separator": ";"}}
    assert settings.origins["sinks"] == "default, start_run(metrics_file_type=...)"
    msgspec.msgpack.encode(config.shaping(settings))
    assert config.load({**arguments, "sinks": ["csv"]}, {}, folder).sinks == ("csv",)


def test_an_option_in_the_file_is_overruled_by_the_keyword(folder: Path, tables: None) -> None:
    """As every argument overrules the file; the others stay."""
    text = '[run]\nsinks = ["+csv"]\n[sinks.csv]\nseparator = "|"\ncompressor = "gzip"\n'
    (folder / "prov4ml.toml").write_text(text)
    settings = config.load({"csv_separator": ";"}, {}, folder)
    assert settings.options == {"csv": {"separator": ";", "compressor": "gzip"}}
    assert config.load({}, {}, folder).options["csv"]["separator"] == "|"


def test_the_format_that_is_there_anyway_changes_nothing(folder: Path) -> None:
    """``parquet`` is on the list; the separator is of ``csv`` alone."""
    arguments = {"metrics_file_type": MetricsType.PARQUET, "csv_separator": ","}
    settings = config.load(arguments, {}, folder)
    assert settings.sinks == config.DEFAULT
    assert settings.options == {}


def test_a_format_without_its_sink_gives_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script of yProv4ML runs; what is written instead is said."""
    monkeypatch.setattr(sink, "available", lambda: dict.fromkeys(config.DEFAULT))
    settings = config.load({"metrics_file_type": "zarr"}, {}, folder)
    assert settings.sinks == config.DEFAULT
    assert "metrics_file_type='zarr': there is no sink for it" in caplog.text
    assert "metrics are written as parquet" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "xml",
            "unknown format of metric files: 'xml'; known: csv, netcdf, parquet, zarr",
        ),
        ("cvs", "did you mean 'csv'"),
        ("turtle", "the sink 'turtle' writes a document, not metrics"),
        ("reference", "the sink 'reference' writes a document, not metrics"),
    ],
)
def test_a_format_that_is_none_is_refused_with_what_is_there(
    folder: Path, tables: None, given: str, words: str
) -> None:
    """Also one that names a sink for documents."""
    with pytest.raises(UsageError) as caught:
        config.load({"metrics_file_type": given}, {}, folder)
    assert words in str(caught.value)


def test_a_strangers_sink_may_write_the_metrics(folder: Path, tables: None) -> None:
    """Any stream sink that is installed."""
    assert config.load({"metrics_file_type": "feed"}, {}, folder).sinks[-1] == "feed"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("gzip", "gzip"),
        (CompressorType.GZIP, "gzip"),
        (CompressorType.NONE, "none"),
        (True, "gzip"),
        (False, "none"),
    ],
)
def test_a_compressor_is_an_option_of_the_sink(
    folder: Path, tables: None, given: Any, wanted: str
) -> None:
    """By name, or whether there is to be one."""
    arguments = {"metrics_file_type": "csv", "use_compressor": given}
    assert config.load(arguments, {}, folder).options == {"csv": {"compressor": wanted}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"use_compressor": "zip"},
            "use_compressor='zip' has no effect: the sink 'parquet' offers",
        ),
        (
            {"use_compressor": CompressorType.ZSTD, "metrics_file_type": "csv"},
            "use_compressor='zstd' has no effect: the sink 'csv' offers none, gzip",
        ),
    ],
)
def test_a_compressor_without_effect_is_said(
    folder: Path,
    tables: None,
    caplog: pytest.LogCaptureFixture,
    arguments: dict[str, Any],
    words: str,
) -> None:
    """The sink has no such choice; the script runs."""
    assert config.load(arguments, {}, folder).options == {}
    assert words in caplog.text


@pytest.mark.parametrize(
    ("argument", "value", "kind", "words"),
    [
        ("collect_all_processes", 1, TypeError, "must be true or false, not int"),
        ("disable_codecarbon", "yes", TypeError, "must be true or false, not str"),
        ("metrics_file_type", 3, TypeError, "must be text, not int"),
        ("csv_separator", "", UsageError, "must not be empty"),
        ("use_compressor", 3, TypeError, "must be text, not int"),
        ("use_run_id", "3", TypeError, "must be an integer, not str"),
        ("use_run_id", True, TypeError, "must be an integer, not bool"),
        ("use_run_id", -1, UsageError, "must be 0 or more"),
    ],
)
def test_a_wrong_keyword_of_yprov4ml_is_named(
    folder: Path, argument: str, value: Any, kind: type[Exception], words: str
) -> None:
    """With its value and what it must be."""
    with pytest.raises(kind, match=words) as caught:
        config.load({argument: value}, {}, folder)
    assert f"start_run({argument}=...): {value!r}" in str(caught.value)


def test_only_runs_that_leave_ranks_out_say_so(folder: Path) -> None:
    """What travels is what it was for all others."""
    assert "collect_all_processes" not in config.shaping(config.load({}, {}, folder))
    some = config.load({"collect_all_processes": False}, {}, folder)
    assert config.shaping(some)["collect_all_processes"] is False
