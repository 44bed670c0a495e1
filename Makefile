# the first of these that is there and in range, that which CI runs before the others; PYTHON=... names another
PYTHONS := python3.11 python3.12 python3.13 python3 python
IN_RANGE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
VENV ?= .venv
GPU_PYTHON ?= python
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test long quick lint compat compat-floor method-pages bench gpu notebook notebooks docs clean

demo: $(STAMP)
	$(BIN)/biaslab demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "not long" tests biaslab

# what `make test` leaves out; both together are every test there is
long: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m long --nbmake --nbmake-timeout=600 tests notebooks

quick: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not long" tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

compat: $(STAMP)
	$(BIN)/python -m tools.compat

compat-floor: $(STAMP)
	$(BIN)/python -m tools.compat floor

method-pages: $(STAMP)
	$(BIN)/python -m tools.method_pages

notebooks: $(STAMP)
	$(BIN)/python -m tools.notebooks

bench: $(STAMP)
	$(BIN)/python -m benchmarks.capture
	$(BIN)/python -m benchmarks.selection
	$(BIN)/python -m benchmarks.rules
	$(BIN)/python -m benchmarks.frames
	$(BIN)/python -m benchmarks.launches
	$(BIN)/python -m benchmarks.prefill
	$(BIN)/python -m benchmarks.real_size
	$(BIN)/python -m benchmarks.planted
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.fitting
	$(BIN)/python -m benchmarks.maps
	$(BIN)/python -m benchmarks.pictures
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.expressions
	$(BIN)/python -m benchmarks.estimators

# on a machine with a CUDA device, in the environment that is active there: torch for its driver is not ours to choose
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu

notebook: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e .[jupyter]
	$(BIN)/jupyter lab notebooks

# build/docs/index.html; GALLERY=0 leaves the gallery's scripts unrun, whose pages then have no figures
GALLERY ?= 1
docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e .[docs]
	rm -rf docs/made/api build/docs
	$(BIN)/python -m sphinx -b html -c docs -W --keep-going -q -D plot_gallery=$(GALLERY) . build/docs
	$(BIN)/python -m tools.check_site build/docs

# torch first and alone: its pinned wheel must be in place before anything else asks for an open range of it.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] && $(BIN)/python -c '$(IN_RANGE)' 2>/dev/null; then exit 0; fi; \
	for python in $(or $(PYTHON),$(PYTHONS)); do \
	    if $$python -c '$(IN_RANGE)' 2>/dev/null; then \
	        echo "Python: $$(command -v $$python), $$($$python --version)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "no Python from 3.11 to 3.13 with venv is here (tried $(or $(PYTHON),$(PYTHONS))): install one, or name it: make PYTHON=PATH"; \
	exit 1
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .[dev]
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs .compat docs/made
