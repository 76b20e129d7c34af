# `make demo` and `make test` are all that a new user needs; everything goes into .venv.
PYTHON ?= python3.11
EXTRAS ?=
BIN := .venv/bin
PARALLEL := -n auto --dist loadfile

extras = $(if $(strip $(EXTRAS)),[$(EXTRAS)])

.PHONY: demo test test-all bench check install clean

demo: .venv/installed ## the command on the committed embeddings
	$(BIN)/semdedup input_path=examples/data output_path=demo-output eps=0.05 n_probes=exact reach=0.2 'metadata_fields=[text]'
	@$(BIN)/python examples/look_at_pairs.py demo-output

test: .venv/installed-test ## the fast tests
	$(BIN)/python -m pytest -q $(PARALLEL)

test-all: .venv/installed-test ## the slow ones too
	$(BIN)/python -m pytest -q $(PARALLEL) -m ""

bench: .venv/installed-bench ## compare with peers; BENCH="given fit" chooses
	$(BIN)/python -m benchmarks $(BENCH)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: .venv/bin/python ## for use; EXTRAS=ray,s3 adds them
	$(BIN)/pip install -q -e ".$(extras)"
	$(if $(findstring flink,$(EXTRAS)),$(BIN)/python -m beam_semdedup.runners.flink.job_server)
	@touch .venv/installed
	@echo "Installed. Try: $(BIN)/semdedup --help"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[test]"
	@touch $@ .venv/installed

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[bench]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv demo-output
