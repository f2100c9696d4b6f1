"""The texts for readers say what the code does: no setting, sink or example is missing."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from prov4ml import cli, config, sink

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_readme_shows_the_minimal_example() -> None:
    """The first code a reader sees is the file that the tests run."""
    first = README.split("```python\n")[1].split("```")[0]
    assert first == (ROOT / "examples" / "minimal.py").read_text()


def test_the_readme_asks_the_question_of_the_file() -> None:
    """The query in the README is the one that its curl line sends."""
    query = README.split("```sparql\n")[1].split("```")[0]
    assert query == (ROOT / "examples" / "question.rq").read_text()


@pytest.mark.parametrize("setting", config.SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_stands_in_the_table(setting: config._Setting) -> None:
    """A row of the README names file key, variable and argument of each setting."""
    names = [setting.argument, setting.variable]
    if setting.key:
        names.append(f"[{setting.table}] {setting.key}")
    wanted = {f"`{name}`" for name in names if name}
    rows = [line.split("|")[1:4] for line in README.splitlines() if line.startswith("|")]
    assert wanted in [{cell.strip() for cell in row} - {""} for row in rows]


def test_every_variable_stands_in_the_readme() -> None:
    """Variables that are read elsewhere are explained too, and no other is."""
    assert set(re.findall(r"PROV4ML_[A-Z_]+", README)) == set(config.VARIABLES)


def test_every_sink_stands_in_the_table() -> None:
    """Each built-in sink has its line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in project["project"]["entry-points"][sink.GROUP]:
        assert f"| `{name}` |" in README


def test_the_sample_file_holds_the_defaults(tmp_path: Path) -> None:
    """The commented file sets every key, each to its default."""
    text = (ROOT / "examples" / "prov4ml.toml").read_text()
    (tmp_path / "prov4ml.toml").write_text(text)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / ".git").mkdir()
    sampled, bare = config.load({}, {}, tmp_path), config.load({}, {}, tmp_path / "bare")
    keys = {setting.name for setting in config.SETTINGS if setting.key}
    assert keys
    for name in keys:
        assert getattr(sampled, name) == getattr(bare, name)
        assert "prov4ml.toml" in sampled.origins[name]


def test_every_module_stands_on_the_map() -> None:
    """Who reads the map finds each module of the package."""
    text = (ROOT / "prov4ml" / "README.md").read_text()
    modules = {path.stem for path in (ROOT / "prov4ml").glob("*.py")} - {"__init__"}
    assert modules
    assert not {name for name in modules if f"`{name}`" not in text}


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands by name."""
    (found,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def command_rows() -> dict[str, str]:
    """The rows of the table of commands by name."""
    text = README.split("## Commands\n")[1].split("\n## ")[0]
    return {row.split("`")[1].split()[1]: row for row in text.splitlines() if "| `prov4ml" in row}


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_stands_in_the_table(name: str) -> None:
    """A row for each command, and in it each of its options."""
    row = command_rows()[name]
    for action in commands()[name]._actions:
        if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            assert all(option in row for option in action.option_strings)


def test_the_table_has_no_command_that_is_none() -> None:
    """Each row is about a command, with options that it has."""
    for name, row in command_rows().items():
        known = {option for a in commands()[name]._actions for option in a.option_strings}
        assert set(re.findall(r"--[a-z]+", row)) <= known


def test_every_command_line_in_the_texts_can_be_parsed() -> None:
    """``prov4ml ...`` lines of the texts are accepted, and no command is named that is none."""
    lines, named = [], []
    for path in ("README.md", "examples/README.md", "sinks/README.md", "prov4ml/README.md"):
        text = (ROOT / path).read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.S):
            lines += [line.partition("#")[0] for line in block.splitlines()]
        named += re.findall(r"`(prov4ml [^`]+)`", text)
    assert {line.split()[1] for line in named} - {"--version"} <= set(commands())
    given = [shlex.split(line)[1:] for line in lines if line.startswith("prov4ml ")]
    given += [line.split()[1:] for line in named if " --" in line and "--version" not in line]
    assert len(given) > 5
    for words in given:
        cli.parser().parse_args(words)


def test_every_folder_of_tests_is_explained() -> None:
    """``tests/README.md`` has a row for each folder beside it, and no other."""
    folder = ROOT / "tests"
    there = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))}
    assert set(re.findall(r"^\| `(\w+)/`", (folder / "README.md").read_text(), re.M)) == there
