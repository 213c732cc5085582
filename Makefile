# `make demo` and `make test` need nothing beforehand but Python 3.11 to 3.13, make, bash and git.
# Settings: PYTHON=/path/to/python3.12, GPU=yes or GPU=no (see .ci/setup), PYTEST_ARGS="-k name",
# GPU_ARGS="--parts decisions".

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?=
GPU_ARGS ?=
export PYTHON GPU

MAKEFLAGS += --no-print-directory
.PHONY: help demo test gpu torture lint docs format install clean

help:
	@echo "make demo     make a maze dataset, train a planner on it, evaluate it: runs/demo"
	@echo "make test     the test suite: 6 to 9 minutes on two cores"
	@echo "make gpu      measure planning and training on this machine's GPU: runs/gpu"
	@echo "make torture  hundreds of bad inputs, kills, full disks, bad environments, counted by kind"
	@echo "make lint     ruff, mypy, the import contract"
	@echo "make docs     the documentation site: docs/_build/html/index.html"
	@echo "make format   what ruff can mend by itself"
	@echo "make install  the set-up alone, into $(VENV) (the others do it when needed)"
	@echo "make clean    remove builds and caches, keep $(VENV) and runs"

demo: $(INSTALLED)
	@$(BIN)/python -m diffplan.scripts.demo

# Two test processes on two cores: PyTorch itself gains nothing from a second thread on networks
# this small, and tests/conftest.py holds each process to one.
test: $(INSTALLED)
	@$(BIN)/pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# GPU_ARGS="--device cpu" rehearses it at small sizes.
gpu: $(INSTALLED)
	@$(BIN)/python -m diffplan.scripts.checks.gpu $(GPU_ARGS)

# Hundreds of bad inputs, kills and hostile surroundings; a few of each kind are among the tests.
torture: $(INSTALLED)
	@$(BIN)/python -m diffplan.scripts.checks.bad_inputs
	@$(BIN)/python -m diffplan.scripts.checks.torture --large

lint: $(INSTALLED)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet --diff .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Without a network; what warns fails.
docs: $(INSTALLED)
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

format: $(INSTALLED)
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@.ci/setup $(VENV) -e '.[dev,docs,metaworld,ogbench,onnx,robotics,video]'
	@touch $@

clean:
	@rm -rf build dist docs/_build *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache \
	  .pytest_cache .ruff_cache
	@find diffplan envs agents scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
