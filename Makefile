# `make` lists the targets. Everything runs in the virtual environment $(VENV), which is set up on demand.
#
# Variables, as in `make test JOBS=4`:
#   PYTHON       interpreter (3.11 or newer) that creates the environment; found by itself if not given
#   VENV         folder of the environment
#   TORCH        version of torch, such as 2.11.0; remembered in the environment
#   TORCH_INDEX  address of a further package index for torch, such as https://download.pytorch.org/whl/cpu
#   JOBS         test processes
#   ARGS         further arguments for pytest (make test) or for distal demo (make demo)

VENV ?= .venv
JOBS ?= 2
TORCH ?=
TORCH_INDEX ?=
ARGS ?=
PYTHON ?= $(shell for p in python3 python python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

BIN := $(VENV)/bin
SETUP = $(PYTHON) scripts/setup_venv.py --venv "$(VENV)" --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"
# The tests make small tensors: more threads than cores only slow them down. Nothing may reach for the network.
TEST_ENV = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.PHONY: help python setup runtime demo test check lint format types docs wheel constraints clean

help: ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-20s%s\n", $$1, $$2}'

python:
	@test -n "$(PYTHON)" || { echo "Distal needs Python 3.11 or newer, and none was found." \
		"Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@command -v "$(PYTHON)" >/dev/null || { echo "PYTHON=$(PYTHON): no such program" >&2; exit 2; }

setup: python ## create or update the environment: Distal, the development tools and the test oracles
	@$(SETUP) --extras dev,bench,judge,benchmarks

runtime: python
	@$(SETUP)

demo: runtime ## train, align and judge a small language model on real film reviews
	@$(BIN)/distal demo $(ARGS)

test: setup ## run the tests and the examples in the docstrings
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --doctest-modules src tests $(ARGS)

check: lint types docs ## lint, types and documentation: what must hold before a commit

lint: setup ## ruff, rules and layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

types: setup ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: setup ## build the documentation into site/; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: setup ## build the wheel into dist/ and test it from outside the source tree
	sh scripts/test_wheel.sh $(BIN)/python

constraints: python ## resolve the dependencies anew into constraints.txt
	@$(PYTHON) scripts/update_constraints.py

clean: ## remove what the tools left behind, the environment included; keeps runs/
	rm -rf "$(VENV)" "$(VENV).lock" .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
