# Every target makes its own virtual environment on first use; only Python >= 3.11, gcc and make are needed before.
#   make demo      run the demo on real data        make check     ruff, mypy --strict, layers, CUDA compile
#   make test      run the tests                    make bench     run the store benchmark
#   make test-all  the tests with the slow ones     make clean     remove what the others made
#   make crash    power cuts and histories by the thousand
#   make sabotage take out each sync, checksum and lock: some test must fail
#   make install   the environment with all of demo, dev and bench, and nothing else
# Options: PYTHON=python3.12  VENV=folder  ARGS="more arguments for the demo, pytest or the benchmark"

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
NATIVE := $(wildcard wal/native/*.[ch] warpstore/native/*.[ch])
CUDA   := $(wildcard gpu_kernels/cuda/*.cu)
NVCC   := $(shell command -v nvcc 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# pip writes into one environment at a time.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-all crash sabotage check lint types layers native cuda bench install clean

demo: $(VENV)/.installed-demo
	@$(BIN)/python -m warpstore.demo $(ARGS)

test: $(VENV)/.installed-dev $(VENV)/.installed-demo
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev $(VENV)/.installed-demo
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

crash: $(VENV)/.installed-dev
	@WARPSTORE_CRASH_POINTS=2000 WARPSTORE_HISTORIES=350 $(BIN)/python -m pytest -n auto --timeout 7200 tests/crash $(ARGS)

sabotage: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.sabotage $(ARGS)

check: lint types layers native cuda
	@echo "check: all passed"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy sees the demo's and the benchmarks' libraries too, so they are installed.
types: $(VENV)/.installed-dev $(VENV)/.installed-demo $(VENV)/.installed-bench
	$(BIN)/mypy --strict

layers: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/test_layers.py

# Compiles the C sources once more with every warning an error.
native: $(VENV)/.installed-dev
	$(CC) -fsyntax-only -O2 -std=c17 -Wall -Wextra -Wpedantic -Wshadow -Werror \
	    -isystem $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') $(filter %.c,$(NATIVE))

# Compiles every kernel for an H200 (sm_90); nothing to do where there is no nvcc.
cuda:
ifeq ($(NVCC),)
	@echo "cuda: no nvcc on this machine, kernels not compiled"
else ifeq ($(CUDA),)
	@echo "cuda: no kernels"
else
	@mkdir -p build/cubin
	@set -e; for source in $(CUDA); do \
	    echo "nvcc $$source"; \
	    $(NVCC) -arch=sm_90 -std=c++17 -cubin -o build/cubin/$$(basename $$source .cu).cubin $$source; \
	done
endif

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m benchmarks store $(ARGS)

install: $(VENV)/.installed-dev $(VENV)/.installed-demo $(VENV)/.installed-bench

# One stamp an extra: made once, again when pyproject.toml or a C source changes.
$(VENV)/.installed-%: pyproject.toml hatch_build.py $(NATIVE) | $(BIN)/python
	@echo "installing warpstore[$*] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --quiet --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "warpstore needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv build dist */_native.*.so demo_data .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
