# make demo     train the digits example and show what is known of it
# make test     everything that must hold: what make check looks at, and all tests
# make check    linters, types, import directions, and that the docs are complete and true
# make soak     the long fault variants of the tests
# make bench    the benchmarks; they print tables
# make picture  draw the picture of the README again, from a run of the digits
# make clean    remove what the targets above made
#
# Needs Python 3.11 or later with venv, git and make.  PYTHON=python3.12 picks another one.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test check soak bench picture clean browser

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

venv: $(STAMP)

# torch first and alone: whatever asks for it afterwards finds this one and fetches no other.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prov4ml needs Python 3.11 or later; say which one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/digits.py
	@$(BIN)/prov4ml show "$$(ls -td prov/digits_[0-9]* | head -n 1)"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit/test_docs.py tests/unit/test_calls_doc.py tests/unit/test_sinks_docs.py tests/unit/test_format_doc.py

test: check browser
	$(BIN)/python -m pytest -m "not soak"

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

bench: $(STAMP)
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file; done

# A run of its own, under the name and in the folder of nobody here.
picture: $(STAMP)
	@rm -rf build/picture && mkdir -p build/picture
	@printf '[run]\nuser = "ada"\n' > build/picture/prov4ml.toml
	@PROV4ML_CONFIG=build/picture/prov4ml.toml PROV4ML_DIR=build/picture/prov \
	    $(BIN)/python examples/digits.py
	@sed 's|$(CURDIR)|/home/ada/prov4ml|g' build/picture/prov/digits_0/prov.svg > prov4ml/docs/demo.svg

# One test renders the picture in headless Chromium; without a browser it is skipped and says so.
# Only root can install one, and nobody needs to be root.
browser:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium to render the picture in a test"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	        --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 \
	    || echo "no chromium: apt-get could not install it; the rendering test is skipped"; \
	else \
	    echo "no chromium: the rendering test is skipped (apt install chromium fonts-dejavu-core)"; \
	fi

clean:
	rm -rf $(VENV) prov build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	    .import_linter_cache
