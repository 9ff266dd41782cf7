# Needs Python 3.11 or newer, make and git; everything else is installed into .venv, and nowhere else.
# `make test` also needs, for the servers that are as strict as the real stores: Java, Maven, the Google Cloud CLI.

PYTHON ?= $(shell for one in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$one; break; }; done)
BIN := .venv/bin
# The interpreter is the one chosen above; uv must not fetch another. An environment that is active is not ours.
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# What pytest is to be told besides: make test ARGS="--cells='mongo-*' -k runs"
ARGS ?=
# Processes that share the cells; each starts the servers of its own.
JOBS ?= 3

.PHONY: demo test nightly bench check format lock build clean
.DEFAULT_GOAL := test

.venv/.synced: uv.lock pyproject.toml mongo/pyproject.toml dynamo/pyproject.toml firestore/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/uv || { $(PYTHON) -m venv --clear .venv && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv sync --frozen --compile-bytecode
	@touch $@

demo: .venv/.synced ## a real agent in each store, resumed by another process
	$(BIN)/python -m tests.demo

test: .venv/.synced ## the whole matrix, as far as this machine has the servers
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# Each day other values; AGNO_DOCSTORES_SEED names those of a day that failed.
nightly: export AGNO_DOCSTORES_VALUES ?= 10000
nightly: export AGNO_DOCSTORES_SEED ?= $(shell date +%Y%m%d)
nightly: export AGNO_DOCSTORES_IDS := all
nightly: .venv/.synced ## 10,000 generated values in each cell, and every hostile id
	@echo "AGNO_DOCSTORES_VALUES=$$AGNO_DOCSTORES_VALUES AGNO_DOCSTORES_SEED=$$AGNO_DOCSTORES_SEED"
	$(BIN)/python -m pytest -n $(JOBS) tests/test_conformance_values.py tests/test_conformance_ids.py \
		-k "generated or apart" $(ARGS)

bench: .venv/.synced ## what it costs, beside Agno's own adapters; ARGS=--small: that it works at all
	$(BIN)/python -m tests.bench $(ARGS)

check: .venv/.synced ## lint and types, without a server
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.synced
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/.synced ## after a change of dependencies
	$(BIN)/uv lock

build: .venv/.synced ## the four distributions, into dist/
	rm -rf dist
	$(BIN)/uv build --quiet --all-packages --out-dir dist

clean:
	rm -rf .venv .cache dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
