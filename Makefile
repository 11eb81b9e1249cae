# Figureground. `make help` lists the targets.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow fuzz system lint format bench lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

# Everything comes from the lock, nothing is resolved again; the project itself is installed in place.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "figureground needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV): some minutes and several GB the first time (torch)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## Serve the bundled models, post the sample photos, draw the answers into demo/
	$(BIN)/python -m service.demo

serve: $(INSTALLED) ## The service on 127.0.0.1:3000
	$(BIN)/figureground serve

# With Debian's postgresql, prometheus (promtool) and nodejs installed, the tests that need them run too; without,
# they are skipped and say so: `make system` installs them.
test: $(INSTALLED) lint ## ruff, mypy and the whole test suite
	$(BIN)/pytest -m "not slow"

test-slow: $(INSTALLED) ## The tests that take minutes each
	$(BIN)/pytest -m slow --timeout=3600

fuzz: $(INSTALLED) ## 100,000 broken photos against the decoder (minutes)
	$(BIN)/python -m tests.models.fuzz_photos -n 100000

system: ## Debian packages for the tests of the PostgreSQL journal, the alert rules and the JavaScript client
	apt-get update && apt-get install --yes --no-install-recommends postgresql prometheus nodejs

lint: $(INSTALLED) ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## The benchmarks of loadtests/, results into loadtests/results/
	$(BIN)/python -m loadtests.startup
	$(BIN)/python -m loadtests.pipeline

lock: ## Resolve pyproject.toml's lower bounds into requirements.lock again
	$(BIN)/pip-compile --quiet --upgrade --all-extras --allow-unsafe --strip-extras --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
	    --annotation-style=line -P torch==2.14.1 -P torchvision==0.29.1 \
	    --output-file requirements.lock pyproject.toml

clean: ## Remove what was built and drawn, not the installation
	rm -rf build dist demo loadtests/results .pytest_cache .mypy_cache .ruff_cache .hypothesis
