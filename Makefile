# make help lists the targets. demo, test and check set the environment up first (what changed).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.a2s-setup
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib

# The first interpreter of a version that a2s runs on; `make setup PYTHON=…` chooses.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' \
	2>/dev/null && echo $$p && break; done)

# Seconds of make fuzz.
BUDGET ?= 600
# Kills of make soak.
KILLS ?= 200

# make demo IMAGES=photographs [TRUTH=masks] [ENCODER=weights.safetensors] [ENCODER_NAME=resnet50]
IMAGES ?=
TRUTH ?=
ENCODER ?=
ENCODER_NAME ?= mobilenet_v2
DEMO := runs/demo
# Test files that run at once; each takes up to 4 GiB.
TEST_PROCESSES ?= 2
AT_ONCE := --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
DEMO_NAME := $(if $(IMAGES),yours,scenes)-$(if $(ENCODER),encoder,bundled)
# Without an encoder it starts from the models inside the package, at the size that they know.
DEMO_FLAGS := --config configs/mobile-cpu.yaml --workers 0 --stage1.cache-dir $(DEMO)/cache \
	$(if $(ENCODER),$(foreach stage,stage1 stage2,\
	--$(stage).encoder.name $(ENCODER_NAME) --$(stage).encoder.weights "$(ENCODER)"),\
	--stage2.image-size 256)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all fuzz soak check docs pages pins clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## build the environment in .venv (Python 3.11 to 3.13, a C compiler)

$(STAMP): requirements.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "setup: needs Python 3.11 to 3.13 (found: $$(python3 --version 2>&1));" \
			"install one, or say which: make setup PYTHON=/path/to/python3.12" >&2; exit 2; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || { \
		echo "setup: $(PYTHON) is $$($(PYTHON) --version 2>&1); needs Python 3.11 to 3.13" >&2; \
		exit 2; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { \
		echo "setup: pydensecrf2, for the tests, is compiled and no C compiler was found;" \
			"install one (Debian: apt-get install build-essential)" >&2; exit 2; }
	@if ! $(BIN)/python -c 'import sys' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); fi
	@if ! $(BIN)/uv --version >/dev/null 2>&1; then $(BIN)/python -m pip install --quiet uv; fi
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup ## run the whole pipeline on drawn scenes, under 5 minutes on 2 cores
ifeq ($(strip $(IMAGES)),)
	@$(BIN)/python -m a2s.data.synthetic $(DEMO)/scenes
	@$(BIN)/python -m a2s run $(DEMO)/scenes/train --out $(DEMO)/$(DEMO_NAME) $(DEMO_FLAGS) \
		--test $(DEMO)/scenes/test/images --truth $(DEMO)/scenes/test/masks
else
	@$(BIN)/python -m a2s run "$(IMAGES)" --out $(DEMO)/$(DEMO_NAME) $(DEMO_FLAGS) \
		$(if $(TRUTH),--truth "$(TRUTH)")
endif
	@$(BIN)/python -m a2s report $(DEMO)/$(DEMO_NAME)

test: setup ## run the tests but the slow ones; one file or folder: make test T=tests/models/test_blocks.py
	@$(BIN)/python -m pytest $(if $(T),$(T),-m "not slow" $(AT_ONCE))

test-all: setup ## run all tests
	@$(BIN)/python -m pytest $(AT_ONCE)

fuzz: setup ## try hostile inputs for BUDGET seconds (600), half of them with atheris if it is there
	@if $(BIN)/python -c "import atheris" 2>/dev/null; then \
		$(BIN)/python tests/hostile/coverage_fuzz.py $$(($(BUDGET) / 2)) build/fuzz || exit 1; fi; \
	end=$$((SECONDS + $(BUDGET) / 2)); while [ $$SECONDS -lt $$end ]; do \
		A2S_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest -q -x tests/hostile -k fuzz || exit 1; done

soak: setup ## kill commands KILLS times (200) and compare what they write
	@$(BIN)/python benchmarks/soak.py --kills $(KILLS) --out build/soak.json

check: setup docs ## lint, format, types, layers, shell scripts, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layers.py
	$(BIN)/shellcheck .ci/run benchmarks/on_gpu.sh $$(find launch -name '*.sh' -o -name '*.sbatch')

docs: setup ## build the site of the documents in build/site, check its links
	@rm -rf build/site build/doctrees
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs/site -d build/doctrees . build/site
	@$(BIN)/python docs/site/check_site.py build/site

pages: setup ## write the pages of docs/ that are made from the code again
	@$(BIN)/python docs/site/write_pages.py

# requirements.in holds what only the pins say: torch and torchvision are a pair.
pins: setup ## recompute requirements.txt from pyproject.toml and requirements.in
	$(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --upgrade \
		--python-version 3.11 --extra dev --extra tensorboard \
		pyproject.toml requirements.in --output-file requirements.txt

clean: ## remove the environment and caches, never runs/
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist a2s.egg-info
