# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check reference benchmark clean

demo: $(READY)
	$(BIN)/driftcast compare shapes-flux --evaluations 8 10 14 --seeds 2 --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Trains the shipped model again; resumes where it was interrupted.
reference: $(READY)
	$(BIN)/python -m driftcast.reference.train

# The table and the grid of the README.
benchmark: $(READY)
	$(BIN)/driftcast compare shapes-flux --evaluations 8 10 14 --seeds 8 --out runs/benchmark
	mkdir -p docs/results
	cp runs/benchmark/grid.png docs/results/grid.png
	cp runs/benchmark/results.jsonl docs/results/shapes-flux.jsonl
	$(BIN)/driftcast report runs/benchmark/results.jsonl --markdown > docs/results/table.md

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) || { echo "venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0" numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache
