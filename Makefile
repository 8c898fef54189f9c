# Everything here makes its own .venv; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Tests that run side by side, each with one thread.
WORKERS ?= 2

.PHONY: demo test test-all check native-sanitize format clean

demo: $(VENV)/.installed ## Train a small model on Python's own library sources, in about five minutes
	$(BIN)/zhixing quickstart

test: $(VENV)/.installed-test check ## Lint, types, layers, and the fast tests, two side by side
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test-all: $(VENV)/.installed-test check ## Also the slow tests and those that need real data
	$(BIN)/python -m pytest -m ""

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

native-sanitize: $(VENV)/.installed-test ## The C++ core under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python -m pytest -m slow tests/native/test_sanitizers.py

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Zhixing needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# Installing builds the C++ core, where a compiler is there.
CORE := setup.py $(wildcard src/zhixing/native/csrc/*)

$(VENV)/.installed: pyproject.toml constraints.txt $(CORE) | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[data]'
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(CORE) | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
