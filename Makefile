# Two commands on a fresh machine: `make table3` and `make test`. Each makes .venv on its first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TABLES := table1 table2 table3 table4 table5 table6 table7 table8 table9
EXPERIMENTS := temperature temperature-jfse sigma-sweep stability scaling dependency many-modalities unsupervised foundation
# What a table command is given, e.g. `make table3 ARGS="--scale paper --seeds 0 1 2"`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install test lint bench tables compare claims report $(TABLES) $(EXPERIMENTS) clean-cells

help:  ## list the targets
	@grep -hE '^[a-zA-Z0-9$$()_-]+:.*## ' $(MAKEFILE_LIST) | \
		sed -e 's/^\$$(TABLES):/table1 to table9:/' -e 's/^\$$(EXPERIMENTS):/EXPERIMENT:/' | \
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

$(EXPERIMENTS): %: $(STAMP)  ## one of temperature, temperature-jfse, sigma-sweep, stability, scaling, dependency, many-modalities, unsupervised, foundation
	$(BIN)/python -m reproduce $@ $(ARGS)

claims: $(STAMP)  ## say of every claim of the paper whether the results bear it out
	$(BIN)/python -m reproduce claims $(ARGS)

report: $(STAMP)  ## write results/report.html and results/README.md from the results
	$(BIN)/python -m reproduce report $(ARGS)

clean-cells: $(STAMP)  ## say which finished cells would be deleted (ARGS=--yes deletes them)
	$(BIN)/python -m reproduce clean-cells $(ARGS)

compare: $(STAMP)  ## set our numbers beside the published ones, and say what differs where they do not compare
	$(BIN)/python -m reproduce compare $(ARGS)

test: $(STAMP)  ## run all tests, a file at a time on every core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

bench: $(STAMP)  ## measure speed and memory against peers into results/bench.* (ARGS="--only losses" and more)
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
