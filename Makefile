# One entry point for people and for CI. `make` alone prints what there is.
#
#   PYTHON=python3.12   which interpreter builds .venv (3.11 or newer)
#   TORCH_INDEX=URL     a further package index to take torch from. On Linux, PyPI's own torch carries CUDA and weighs
#                       gigabytes; https://download.pytorch.org/whl/cpu has the CPU build, the one our timings are for.

PYTHON ?= python3
TORCH := $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?=
BIN := .venv/bin

# --no-compile: byte-compiling every file of torch, sympy and transformers takes as long as installing them; Python
# compiles the few that are used on first import. For that it must be allowed to write them.
PIP_OPTIONS := --quiet --disable-pip-version-check --no-input --no-compile -c constraints.txt \
               $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
PIP := $(BIN)/python -m pip install $(PIP_OPTIONS)
unexport PYTHONDONTWRITEBYTECODE

# OpenMP threads that spin starve their neighbours when a core is shared: one thread per test worker, no spinning.
TEST_ENV := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0
WORKERS ?= 2
TRL ?= pinned

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow contract-trl bench claims lint index clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 26

venv: .venv/.base  ## set .venv up with what running needs

demo: .venv/.base  ## train on a task, with control arms, and end with the proof-of-gain page
	rm -rf runs/demo
	$(BIN)/truegain train grpo --task sort --controls --max-seconds 20 --set eval_every=10 --out runs/demo

test: .venv/.dev  ## run the fast tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

test-slow: .venv/.dev  ## run the tests that take minutes
	$(TEST_ENV) $(BIN)/python -m pytest -m slow

contract-trl: .venv/.dev  ## hold TRL to what we read of it: the pinned version, or TRL=newest, or TRL=1.17.0
	@test "$(TRL)" = pinned || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	--target .contract/trl $(if $(filter newest,$(TRL)),trl,trl==$(TRL))
	$(TEST_ENV) $(if $(filter pinned,$(TRL)),,PYTHONPATH=.contract/trl) $(BIN)/python -m pytest --tb=line \
	tests/hosts/test_trl_contract.py tests/hosts/test_trl_numbers.py tests/hosts/test_trl_runs.py

bench: .venv/.dev  ## run every benchmarks/bench_*.py
	@set -e; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file"; done

claims: .venv/.dev  ## run every claim again and write its record
	$(BIN)/truegain claims run --all

lint: .venv/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

index: .venv/.dev  ## write the generated files again: the list of systems, the tables in README and docs
	$(BIN)/python -m truegain.cli.index

# Hosts whose pins need not agree with ours have an environment of their own.
# VERIFIERS=newest     what `make contract-verifiers` holds the adapter against: newest, or a version
VERIFIERS_PIN := $(shell sed -n 's/^verifiers==//p' constraints.txt)
VERIFIERS ?= newest
.PHONY: venv-verifiers test-verifiers contract-verifiers

venv-verifiers: .venv-verifiers/.ready  ## set up .venv-verifiers: truegain beside the pinned verifiers

test-verifiers: .venv-verifiers/.ready  ## run the tests of the verifiers host against the pinned wheel
	$(TEST_ENV) .venv-verifiers/bin/python -m pytest tests/hosts/on_verifiers

contract-verifiers: .venv-verifiers/.ready  ## the same against VERIFIERS=newest; the last line says what changed
	@.venv-verifiers/bin/python tests/hosts/on_verifiers/against.py $(VERIFIERS) $(VERIFIERS_PIN)

# VERL=newest     what `make contract-verl` holds the adapter against: newest, or a version
VERL ?= newest
.PHONY: venv-verl test-verl contract-verl

venv-verl: .venv-verl/.ready  ## set up .venv-verl: truegain beside the pinned verl

test-verl: .venv-verl/.ready  ## run the tests of the verl host against the pinned wheel
	$(TEST_ENV) .venv-verl/bin/python -m pytest tests/hosts/on_verl

contract-verl: .venv-verl/.ready  ## the same against VERL=newest; the last line says what changed
	@$(TEST_ENV) .venv-verl/bin/python tests/hosts/on_verl/against.py $(VERL)

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("truegain needs Python 3.11 or newer; \
	$(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment; on Debian and \
	Ubuntu: apt install python3-venv" >&2; exit 1; }

# torch stands in the same command as the package: on its own, the package's open range would fetch another build.
# The stamps make a second `make` do nothing until the versions change.
.venv/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing truegain into .venv (under a minute, plus the download of torch) ..."
	@$(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing truegain with its test tools into .venv ..."
	@$(PIP) -e '.[dev,data,gguf,gym,lora,math,trl]'
	@touch .venv/.base $@

.venv-verifiers/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing truegain with verifiers $(VERIFIERS_PIN) into .venv-verifiers ..."
	@$(BIN)/python -m venv --clear .venv-verifiers
	@.venv-verifiers/bin/python -m pip install $(PIP_OPTIONS) -e '.[verifiers,data]' pytest beartype hypothesis
	@touch $@

.venv-verl/.ready: pyproject.toml constraints.txt tests/hosts/on_verl/requirements.txt | $(BIN)/python
	@echo "installing truegain with $$(grep '^verl==' constraints.txt) into .venv-verl (1.5 GB) ..."
	@$(BIN)/python -m venv --clear .venv-verl
	@.venv-verl/bin/python -m pip install $(PIP_OPTIONS) -e '.[data]' pytest beartype hypothesis
	@.venv-verl/bin/python -m pip install $(filter-out -c constraints.txt,$(PIP_OPTIONS)) --no-deps \
	  -r tests/hosts/on_verl/requirements.txt
	@touch $@
