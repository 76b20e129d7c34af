# `make demo` and `make test` are all that a new user needs; everything goes into .venv.
PYTHON ?= python3.11
EXTRAS ?=
VENV ?= .venv
BIN := $(VENV)/bin
PARALLEL := -n auto --dist worksteal
TESTS := tests:tests/integration

extras = $(if $(strip $(EXTRAS)),[$(EXTRAS)])

.PHONY: demo test test-all fuzz torture bench check install clean

demo: $(VENV)/installed ## the command on the committed embeddings
	$(BIN)/semdedup input_path=examples/data output_path=demo-output eps=0.05 n_probes=exact reach=0.2 'metadata_fields=[text]' report=true
	@$(BIN)/semdedup-report output_path=demo-output text=true
	@echo "\nOpen demo-output/report.html in a browser: move the threshold, and label some pairs."

test: $(VENV)/installed-test ## the fast tests
	$(BIN)/python -m pytest -q $(PARALLEL)

test-all: $(VENV)/installed-test ## the slow ones too
	$(BIN)/python -m pytest -q $(PARALLEL) -m ""

fuzz: $(VENV)/installed-test ## damaged and odd files and caches; FUZZ="stored --cases 10000 --seed 7" chooses
	PYTHONPATH=$(TESTS) $(BIN)/python -m fuzz $(FUZZ)

torture: $(VENV)/installed-test ## really killed runs; TORTURE="--kills 1000 --seed 7" chooses
	PYTHONPATH=$(TESTS) $(BIN)/python -m fuzz.torture $(TORTURE)

bench: $(VENV)/installed-bench ## compare with peers; BENCH="given fit" chooses
	$(BIN)/python -m benchmarks $(BENCH)

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/bin/python ## for use; EXTRAS=ray,s3 adds them
	$(BIN)/pip install -q -e ".$(extras)"
	$(if $(findstring flink,$(EXTRAS)),$(BIN)/python -m beam_semdedup.runners.flink.job_server)
	$(if $(findstring prism,$(EXTRAS)),$(MAKE) $(BIN)/prism)
	@touch $(VENV)/installed
	@echo "Installed. Try: $(BIN)/semdedup --help"

$(VENV)/bin/prism: | $(VENV)/bin/python ## a minute, with Go
	version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("apache-beam"))'); \
	GOBIN=$(abspath $(BIN)) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$$version

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e ".[test]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e ".[bench]"
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) demo-output
