# Everything runs in .venv, which the first command makes. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
PYTEST_ARGS ?= -n auto
BIN := .venv/bin

.PHONY: demo test check lint types bench clean

demo: .venv/core
	$(BIN)/chameleon demo

test: .venv/test
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

check: lint types test

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/mypy
	MYPYPATH=docs $(BIN)/mypy docs/*.py

bench: .venv/core
	$(BIN)/python tests/bench.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer, this is %s: make PYTHON=python3.12 ..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/test: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
