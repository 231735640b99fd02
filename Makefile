# Two commands on a fresh machine: `make table3` and `make test`. Each makes .venv on its first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A table or an experiment is one YAML file; table 1 and scaling measure the losses themselves.
TABLES := $(sort table1 $(basename $(notdir $(wildcard reproduce/tables/table*.yaml))))
EXPERIMENTS := $(sort scaling $(basename $(notdir $(wildcard reproduce/experiments/*.yaml))))
# What a table command is given, e.g. `make table3 ARGS="--scale paper --seeds 0 1 2"`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install test test-all fuzz lint bench bench-gpu tables compare claims report $(TABLES) $(EXPERIMENTS) clean-runs

help:  ## list the targets
	@grep -hE '^[a-zA-Z0-9$$()_-]+:.*## ' $(MAKEFILE_LIST) | \
		sed -e 's/^\$$(TABLES):/TABLE:/' -e 's/^\$$(EXPERIMENTS):/EXPERIMENT:/' -e 's/EXPERIMENTS$$/$(EXPERIMENTS)/' | \
		awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

install: $(STAMP)  ## make the virtual environment .venv with pinned versions

$(STAMP): pyproject.toml reproduce/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint reproduce/constraints.txt --editable '.[dev]'
	@touch $@

$(TABLES): table%: $(STAMP)  ## regenerate a table from data into results/ (ARGS="--scale paper" and more)
	$(BIN)/python -m reproduce $@ $(ARGS)

tables: $(TABLES)  ## regenerate every table

$(EXPERIMENTS): %: $(STAMP)  ## one of EXPERIMENTS
	$(BIN)/python -m reproduce $@ $(ARGS)

claims: $(STAMP)  ## check the claims of the paper against the results
	$(BIN)/python -m reproduce claims $(ARGS)

report: $(STAMP)  ## write Markdown, figures, results/README.md and results/runs/report.html from the CSV files
	$(BIN)/python -m reproduce report $(ARGS)

clean-runs: $(STAMP)  ## say which finished runs would be deleted (ARGS=--yes deletes them)
	$(BIN)/python -m reproduce clean-runs $(ARGS)

compare: $(STAMP)  ## set our numbers beside the published ones, and say what differs where they do not compare
	$(BIN)/python -m reproduce compare $(ARGS)

# One file at a time on every core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: $(STAMP)  ## run the tests, apart from the slow ones
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP)  ## run all tests
	$(PYTEST) $(ARGS)

fuzz: $(STAMP)  ## attack losses and readers with random inputs, and write the counts to results/fuzz.csv
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

bench: $(STAMP)  ## measure speed and memory against peers into results/bench.* (ARGS="--only losses" and more)
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(STAMP)  ## measure on a CUDA device into results/bench_gpu.*, after comparing it with the CPU
	$(BIN)/python -m benchmarks --gpu $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
