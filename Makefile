# Needs make and a Python 3.11, 3.12 or 3.13 with its venv module; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-gpu lint fmt bench bench-finetune smoke ci clean

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# The first interpreter of a supported version; `make install PYTHON=/path/to/python3.12` overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-14s %s\n' "$$name" "$$what"; done

install: $(STAMP) ## create .venv with medseg, the demo's scan and the development tools

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "medseg needs Python 3.11, 3.12 or 3.13 with venv on PATH (Debian: python3-venv)," \
		"or make install PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@# setuptools prints a box of warning at every editable installation
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[demo]' --group dev
	@touch $@
	@echo "medseg is installed: $(VENV)/bin/medseg --help"

demo: $(STAMP) ## segment both hippocampi of a real brain MR from two clicks
	@$(RUN) examples/demo.py

# A file of tests stays in one process; each process computes with one thread, or they would wait for each other.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

test: $(STAMP) ## run the default test suite
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(PARALLEL)

test-all: $(STAMP) ## run the slow tests too
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(PARALLEL) -m 'not gpu'

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(RUN) -m pytest -m gpu

lint: $(STAMP) ## check style, formatting, import rules and types; changes nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

fmt: $(STAMP) ## rewrite files in the house style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

BENCH_kernels := kernels/bench/bench.py
BENCH_finetune := examples/bench_finetune.py
BENCH_memory := kernels/bench/bench_memory.py
BENCH_us := kernels/bench/bench_us.py

bench: $(STAMP) ## time a run beside its naive version (PAGE=FILE writes tables), or WHAT=kernels, us, finetune, memory
	@$(RUN) $(or $(BENCH_$(WHAT)),kernels/bench/bench_command.py) $(if $(PAGE),--page $(PAGE)) $(ARGS)

bench-finetune:
	@$(MAKE) bench WHAT=finetune

smoke: $(STAMP) ## build the wheel, install it into an empty environment elsewhere, segment with it
	.ci/smoke

ci: ## what the continuous integration runs, from install to smoke
	.ci/run

clean: ## remove builds and caches, keep .venv
	rm -rf build dist out *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find medseg_cli kernels tests examples -name __pycache__ -prune -exec rm -rf {} +
