# `make demo` and `make test` are all that a new user needs; everything goes into .venv.
PYTHON ?= python3.11
EXTRAS ?=
BIN := .venv/bin
PARALLEL := -n auto --dist loadfile
TESTS := tests:tests/integration

extras = $(if $(strip $(EXTRAS)),[$(EXTRAS)])

.PHONY: demo test test-all fuzz torture bench check install clean

demo: .venv/installed ## the command on the committed embeddings
	$(BIN)/semdedup input_path=examples/data output_path=demo-output eps=0.05 n_probes=exact reach=0.2 'metadata_fields=[text]' report=true
	@$(BIN)/semdedup-report output_path=demo-output text=true
	@echo "\nOpen demo-output/report.html in a browser: move the threshold, and label some pairs."

test: .venv/installed-test ## the fast tests
	$(BIN)/python -m pytest -q $(PARALLEL)

test-all: .venv/installed-test ## the slow ones too
	$(BIN)/python -m pytest -q $(PARALLEL) -m ""

fuzz: .venv/installed-test ## damaged and odd files and caches; FUZZ="stored --cases 10000 --seed 7" chooses
	PYTHONPATH=$(TESTS) $(BIN)/python -m fuzz $(FUZZ)

torture: .venv/installed-test ## really killed runs; TORTURE="--kills 1000 --seed 7" chooses
	PYTHONPATH=$(TESTS) $(BIN)/python -m fuzz.torture $(TORTURE)

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
	$(if $(findstring prism,$(EXTRAS)),$(MAKE) $(BIN)/prism)
	@touch .venv/installed
	@echo "Installed. Try: $(BIN)/semdedup --help"

.venv/bin/prism: | .venv/bin/python ## a minute, with Go
	version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("apache-beam"))'); \
	GOBIN=$(abspath $(BIN)) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$$version

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
