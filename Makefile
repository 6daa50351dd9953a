# Everything runs in .venv, built from constraints.txt. Needs Python 3.11.4+ and make; nothing else.

PYTHON ?= python3
ARGS   ?=
SECONDS ?= 60

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

PYTEST = $(BIN)/pytest --numprocesses auto --dist worksteal
.DEFAULT_GOAL := help
.PHONY: help env demo quick test coverage slow test-faults fuzz container-test audit check bench gpu-check docs format clean

help: ## this list
	@echo "unetseg: say make and one of"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv; ARGS=… is handed on."

env: $(STAMP) ## build .venv; nothing to do when it is current

demo: $(STAMP) ## draw sample data, train, evaluate, predict
	$(BIN)/unetseg demo $(ARGS)

quick: $(STAMP) ## run the tests that need no training and less than a second each
	$(PYTEST) -m "not slow and not long" $(ARGS)

test: $(STAMP) ## run all tests but the slow ones
	$(PYTEST) $(ARGS)

coverage: $(STAMP) ## the same, and which lines no test runs; takes a quarter longer
	$(PYTEST) --cov --cov-report=term-missing $(ARGS)

slow: $(STAMP) ## run the tests that take a minute or more
	$(PYTEST) -m slow $(ARGS)

test-faults: $(STAMP) ## bring about every fault of docs/reliability.md, row by row
	$(PYTEST) -m row --rows $(ARGS)

fuzz: $(STAMP) ## spoil inputs of every reader for SECONDS=60; what is no answer is kept in finds/
	$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS) $(ARGS)

container-test: ## build the image and use unetseg inside; needs docker or podman
	$(PYTHON) -m tests.container $(ARGS)

audit: $(STAMP) ## ask for known holes in the versions of constraints.txt; needs the network
	PATH="$$PATH:$(CURDIR)/$(BIN)" uv tool run pip-audit --strict --no-deps --disable-pip \
	    --requirement constraints.txt

check: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure against the plain script, in turns; ARGS=--quick takes minutes
	$(BIN)/python -m benchmarks.predict_folder $(ARGS)
	$(BIN)/python -m benchmarks.train_steps $(ARGS)
	$(BIN)/python -m benchmarks.forward_pass
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.profiles

gpu-check: $(STAMP) ## on a CUDA machine, ten minutes: right, fast, short of memory; benchmarks/results/gpu-NAME.md
	$(BIN)/python -m benchmarks.gpu_check --save $(ARGS)

docs: $(STAMP) ## write docs/cli.md from the commands, tables of docs/data.md and reliability.md from the tests
	$(BIN)/python docs/make_cli.py
	$(BIN)/python -m docs.make_layouts
	$(BIN)/python -m docs.make_reliability

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build products; .venv, data and checkpoints stay
	rm -rf build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find unetseg tests -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs everything: it honours the versions below to the letter, and takes the build of torch
# that belongs to torchvision. A uv on PATH is used; otherwise pip puts one into .venv.
$(STAMP): pyproject.toml constraints.txt
	@set -eu; \
	uv=uv; uv --version >/dev/null 2>&1 || uv=$(BIN)/uv; \
	if ! $(BIN)/python -c pass >/dev/null 2>&1; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || { \
	        echo "unetseg needs Python 3.11.4 or newer; say: make env PYTHON=/path/to/python3.12" >&2; \
	        exit 1; }; \
	    rm -rf $(VENV); \
	    if [ $$uv = uv ]; then \
	        uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	    else \
	        $(PYTHON) -m venv $(VENV) || { \
	            echo "install your system's python3-venv package, or uv" >&2; exit 1; }; \
	    fi; \
	fi; \
	if [ $$uv != uv ] && [ ! -x $$uv ]; then \
	    $(BIN)/python -m ensurepip >/dev/null; \
	    $(BIN)/python -m pip install --quiet --constraint constraints.txt uv; \
	fi; \
	$$uv pip install --python $(BIN)/python --constraints constraints.txt \
	    --build-constraints constraints.txt --compile-bytecode --editable '.[dev]'
	@touch $@
