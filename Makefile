# Targets: demo, test, lint, ui. They use the virtual environment that is active, or make one in $(VENV).

PYTHON ?= python3
VENV ?= .venv

ifdef VIRTUAL_ENV
BIN := $(VIRTUAL_ENV)/bin
else
BIN := $(VENV)/bin
endif

INSTALLED := $(BIN)/.recsys-dagster-installed
INSTALLED_DEV := $(BIN)/.recsys-dagster-installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint ui clean

help:
	@echo "make demo   install, run the whole lineage on the sample dataset, print the leaderboard"
	@echo "make ui     open the Dagster UI"
	@echo "make test   lint, types and tests"
	@echo "make lint   lint and format check alone"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

# The stamps make a second run quick: packages are looked at again only when a requirement changes.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,peft,ray]'
	@touch $@ $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/recsys-dagster materialize --dataset sample
	$(BIN)/recsys-dagster leaderboard --dataset sample
	@echo
	@echo "Where to look next:"
	@echo "  make ui                                       the asset graph, its metadata and checks in the browser"
	@echo "  $(BIN)/recsys-dagster recommend --dataset sample --model g2rec --user user-0113 --n 10"
	@echo "  $(BIN)/recsys-dagster datasets list           the other datasets"
	@echo "  docs/quickstart.md                            the first ten minutes"

ui: $(INSTALLED)
	$(BIN)/recsys-dagster ui

test: $(INSTALLED_DEV) lint
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(INSTALLED_DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
