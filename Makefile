# Everything runs in one environment. Default: the project's own, .venv (made on first use). An active environment
# (virtualenv, conda) that has torch is used instead and keeps its torch. Choose by hand with VENV=folder, or VENV=
# for the `python3` on the PATH. PYTHON says which interpreter makes .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

HAS_TORCH := python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
ifeq ($(origin VENV), undefined)
VENV := $(shell active="$${VIRTUAL_ENV:-$${CONDA_PREFIX:-}}"; \
	if [ -n "$$active" ] && ! [ "$$active" -ef .venv ] && $(HAS_TORCH) 2>/dev/null; then :; else echo .venv; fi)
endif
# Recipes quote PY: a path with spaces is legal. Targets are no paths, for make cannot quote those.
PY := $(if $(VENV),$(VENV)/bin/python,python3)
# One process a core; each one computes on one thread.
TEST_JOBS ?= $(shell n=$$(nproc); echo $$((n > 8 ? 8 : n)))

.PHONY: help setup demo test soak sanitize emulate large-memory spills lint format licences coverage docs doctor clean

help:  ## this list
	@sed -nE 's/^([a-z0-9_-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 14

setup:  ## environment, Detectron2 and native operators; seconds when all is there
	@python="$$(bash tools/find_python.sh "$(VENV)")"; \
	"$$python" tools/setup_environment.py $(if $(VENV),--venv "$(VENV)")

demo: setup  ## train and evaluate FeatureAlign on the built-in data; pictures in output/demo
	@"$(PY)" projects/FeatureAlign/train_net.py --config-file configs/demo.yaml OUTPUT_DIR output/demo

test: setup  ## run the tests (ARGS="tests/ops -k loss" for some)
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -q -n $(TEST_JOBS) --dist loadfile $(ARGS)

coverage: setup  ## the same with coverage: a table, and pages in output/coverage
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -q -n $(TEST_JOBS) --dist loadfile --cov --cov-report=term:skip-covered \
		--cov-report=html:output/coverage $(ARGS)

soak: setup  ## the long tests: kills, and fuzzing for SOAK_SECONDS=600 a target (ARGS="-k coco" for some)
	@echo "20 kills, and fuzzing 7 targets for $${SOAK_SECONDS:-600} s each, $(TEST_JOBS) at a time"
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -q -rP --timeout 3600 -n $(TEST_JOBS) --dist load tests/soak/*.py $(ARGS)

sanitize: setup  ## the operators' tests under the address and undefined-behaviour sanitizers, at each instruction set
	@bash tools/sanitize.sh "$(PY)" $(ARGS)

emulate: setup  ## the CUDA operators' tests without a GPU, threads emulated, with sanitizers (tools/cuda_emulation)
	@OMP_NUM_THREADS=1 TEST_JOBS=$(TEST_JOBS) bash tools/cuda_emulation/run.sh "$(PY)" $(ARGS)

large-memory: setup  ## the operators on more than 2^31 elements; takes 10 GB of memory
	@"$(PY)" -m pytest -q tests/ops/large_deform_conv.py

spills: setup  ## fail where a CUDA kernel spills registers (needs the CUDA toolkit, no GPU)
	@"$(PY)" tools/cuda_spills.py

lint: setup  ## ruff, clang-format, typos and mypy
	@PATH="$$(dirname "$$(command -v "$(PY)")"):$$PATH" bash tools/format.sh --check

format: setup  ## let them rewrite the files
	@PATH="$$(dirname "$$(command -v "$(PY)")"):$$PATH" bash tools/format.sh

licences: setup  ## of all that is installed; fails on GPL, AGPL, LGPL or none (pyproject.toml has the rule)
	@"$(PY)" -m piplicenses

docs: setup  ## the pages as a site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 "$(PY)" -m mkdocs build --quiet

doctor: setup  ## what is installed, and what to do about each problem
	@"$(PY)" -m fa_detectron doctor

clean:  ## remove builds and caches; .venv, data sets and output stay
	rm -rf build dist *.egg-info fa_detectron/*.so .pytest_cache .ruff_cache .mypy_cache .coverage* .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f .venv/fa_detectron.stamp
