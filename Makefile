# make demo | make test : each installs what it needs into .venv and can be run again at any time.
PYTHON ?= python3
VENV ?= .venv
# `make docs` has libraries of its own, apart from the locked ones.
DOCS_VENV ?= .venv-docs
SITE ?= site
TORCH ?= torch==2.13.0
# Where the CPU build of torch comes from if pip's own sources do not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# What else is installed on Linux without a GPU: exact versions with hashes. `make lock` brings it up to date;
# versions that still fit stay, unless the file is deleted before.
LOCK := requirements/cpu.lock
# uv (https://docs.astral.sh/uv) is needed by `make lock` and `make audit` only.
UV ?= uv
# Damaged inputs of `make fuzz`, and the seed that they are drawn with.
FUZZ ?= 1000000
SEED ?= 0
# The world of `make demo`: small enough to be asked about and learnt in some minutes on two cores.
DEMO ?= --users 400 --set items=600
# Processes that `make test` deals the files of tests to.
AT_ONCE ?= 2
# Runs that `make faults` disturbs; number N is the same every time.
FAULTS ?= 300

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
WANTED := pyproject.toml $(LOCK)
INSTALLED := $(VENV)/installed-$(shell cat Makefile $(WANTED) | cksum | cut -d' ' -f1)
DOCS_INSTALLED := $(DOCS_VENV)/installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)
GPU := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
SYSTEM := $(shell uname -s)

# Nothing is fetched or reported at run time, and idle OpenMP threads sleep instead of spinning.
export HF_HUB_OFFLINE := 1
export VLLM_NO_USAGE_STATS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export OMP_WAIT_POLICY := passive

.PHONY: help install demo test slow faults fuzz lint format types imports check docs reference lock audit licences clean

help:
	@echo "make demo     install, then run the whole job on a simulated world in demo/"
	@echo "make test     install, then run all tests but the long ones"
	@echo "make slow     install, then run the long ones"
	@echo "make faults   install, then disturb 300 runs in every way we know, and print how they ended"
	@echo "make fuzz     install, then feed damaged files and replies to all that reads them"
	@echo "make check    linting, types and import rules"
	@echo "make docs     build the pages of docs/ into site/"
	@echo "make reference write the pages of docs/ that follow from the code"
	@echo "make format   rewrite the code as ruff wants it"
	@echo "make lock     pin all libraries of Linux without a GPU anew, with hashes; needs uv, as does the next"
	@echo "make audit    look for known vulnerabilities in these"
	@echo "make licences list their licences in docs/licences.md"
	@echo "make clean    remove .venv, demo/ and caches"

install: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Installing into $(VENV): some minutes the first time." >&2
	@$(PYTHON) -m venv $(VENV)
ifeq ($(GPU),yes)
	@echo "  NVIDIA GPU found: torch and vllm for GPU" >&2
	@$(PIP) -e ".[dev,vllm]"
else ifeq ($(SYSTEM),Linux)
	@echo "  1/3 torch for CPU" >&2
	@$(PIP) --no-deps "$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) --no-deps --index-url $(TORCH_INDEX) "$(TORCH)+cpu" \
	  || { echo "  There is no $(TORCH)+cpu to be had: taking $(TORCH), which may bring CUDA's libraries" >&2; \
	       $(PIP) "$(TORCH)"; }
	@echo "  2/3 all other libraries, as $(LOCK) pins them" >&2
	@$(PIP) --no-deps --require-hashes --only-binary :all: -r $(LOCK)
	@echo "  3/3 LLM-EDT" >&2
	@$(PIP) --no-deps --no-build-isolation -e .
else
	@echo "  no build of vLLM for $(SYSTEM): generators none, cooccurrence and retrieval only" >&2
	@$(PIP) -e ".[dev]" "$(TORCH)"
endif
	@rm -f $(VENV)/installed-*
	@touch $@

demo: $(INSTALLED)
	@mkdir -p demo
	@cd demo && $(BIN)/edt sample $(DEMO) && $(BIN)/edt run

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile

slow: $(INSTALLED)
	@$(BIN)/python -m pytest -m slow

faults: $(INSTALLED)
	@EDT_FAULTS=$(FAULTS) $(BIN)/python -m pytest -n $(AT_ONCE) tests/faults

fuzz: $(INSTALLED)
	@nice -n 5 $(BIN)/python -m tests.fuzz $(FUZZ) --seed $(SEED)

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(INSTALLED)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(INSTALLED)
	@$(BIN)/mypy

imports: $(INSTALLED)
	@$(BIN)/lint-imports

check: lint types imports

docs: $(DOCS_INSTALLED)
	@$(DOCS_VENV)/bin/python -m sphinx --fail-on-warning --quiet docs $(SITE)
	@echo "$(SITE)/index.html"

$(DOCS_INSTALLED): pyproject.toml
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > $(DOCS_VENV)/wanted.txt
	@$(DOCS_VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check -r $(DOCS_VENV)/wanted.txt
	@rm -f $(DOCS_VENV)/installed-*
	@touch $@

reference: $(INSTALLED)
	@$(BIN)/python docs/reference.py

lock:
	@$(UV) pip compile --quiet --config-file requirements/uv.toml --universal --python-version 3.11 --generate-hashes \
	  --only-binary :all: --no-emit-package torch --no-emit-package llm-edt --no-annotate \
	  --custom-compile-command "make lock" --output-file $(LOCK) requirements/cpu.in

audit:
	@$(UV) tool run pip-audit --disable-pip --require-hashes -r $(LOCK)

licences: $(INSTALLED)
	@$(BIN)/python requirements/licences.py > docs/licences.md

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(SITE) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
