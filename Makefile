# Figureground. `make help` lists the targets.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow fuzz system lint format bench screenshots dashboard-picture lock licences base-image image image-cuda image-test image-name sbom clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

# Everything comes from the lock, nothing is resolved again; the project itself is installed in place.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "figureground needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV): some minutes and several GB the first time (torch)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## Serve the bundled models, post the sample photos, draw the answers into demo/
	$(BIN)/python -m service.demo

serve: $(INSTALLED) ## The service on 127.0.0.1:3000
	$(BIN)/figureground serve

# With Debian's postgresql, prometheus (promtool), nodejs and chromium installed, the tests that need them run too; without,
# they are skipped and say so: `make system` installs them.
test: $(INSTALLED) lint ## ruff, mypy and the whole test suite
	$(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(INSTALLED) ## The tests that take minutes each
	$(BIN)/pytest -m slow --timeout=3600

fuzz: $(INSTALLED) ## 100,000 broken photos against the decoder (minutes)
	$(BIN)/python -m tests.models.fuzz_photos -n 100000

system: ## Debian packages for the tests of PostgreSQL, the alert rules, the JavaScript client, the page, an upgrade, images
	apt-get update && apt-get install --yes --no-install-recommends postgresql prometheus nodejs chromium nginx-light \
	    podman buildah runc debootstrap

lint: $(INSTALLED) ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) rivals ## The benchmarks of loadtests/ (45 minutes; BENCH="--seconds 2 --turns 1": less), into loadtests/results/
	$(BIN)/python -m loadtests.startup
	$(BIN)/python -m loadtests.pipeline
	$(BIN)/python -m loadtests.bench --models ours $(BENCH)
	$(BIN)/python -m loadtests.bench --models torch $(BENCH)

# Each rival in an environment of its own, on top of the project's packages, so that torch is there already and the same.
.PHONY: rivals load soak
RIVALS := fastapi litserve mosec ray
rivals: $(RIVALS:%=.rivals/%/.installed) ## The servers that the benchmark compares with, into .rivals/

.rivals/%/.installed: loadtests/rivals/requirements-%.txt $(INSTALLED)
	$(PYTHON) -m venv .rivals/$*
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.rivals/$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	.rivals/$*/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

load: $(INSTALLED) ## Locust with its page, against HOST (default http://127.0.0.1:3000)
	$(BIN)/locust -f loadtests/locustfile.py --host $(or $(HOST),http://127.0.0.1:3000)

soak: $(INSTALLED) ## Overload, a rolling restart and memory over many requests (minutes each); a verdict each
	$(BIN)/python -m loadtests.overload
	$(BIN)/python -m loadtests.restart
	$(BIN)/python -m loadtests.soak

screenshots: $(INSTALLED) ## The page in all its states, at 360, 768 and 1920 px, light and dark, into screenshots/
	$(BIN)/python -m loadtests.screenshots

dashboard-picture: $(INSTALLED) ## docs/dashboard.png: the dashboard's queries, after minutes of load
	$(BIN)/python -m loadtests.dashboard

COMPILE := $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --no-header --no-emit-index-url \
    --no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style=line
lock: ## Resolve pyproject.toml's lower bounds again, into requirements.lock and the images' locks
	$(COMPILE) --upgrade --all-extras -P torch==2.14.1 -P torchvision==0.29.1 \
	    --output-file requirements.lock pyproject.toml
	$(COMPILE) --upgrade --constraint requirements.lock --extra postgres --extra traces \
	    --output-file deploy/requirements-cuda.lock pyproject.toml
	for name in cpu sbom; do $(COMPILE) --upgrade --constraint requirements.lock \
	    --output-file deploy/requirements-$$name.lock deploy/requirements-$$name.in || exit 1; done
	$(BIN)/python deploy/hashes.py requirements.lock deploy/requirements-*.lock

licences: $(INSTALLED) ## Every dependency with its version and licence
	$(BIN)/pip-licenses --from=mixed --order=license

# Where no image registry can be reached: `make base-image`, then `make image BASE_IMAGE=localhost/figureground-base`.
BASE_IMAGE ?= python:3.11-slim
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= figureground:$(VERSION)
BUILD := buildah build --format docker --layers --isolation chroot --network host --file deploy/Containerfile \
    --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(VERSION) \
    --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)

base-image: ## A base image from this machine's own Debian packages (as root)
	deploy/base-image.sh localhost/figureground-base

# The models are exported here, so that the build need not install torch for it.
image: $(INSTALLED) ## The image that serves on a CPU, without torch (buildah)
	$(BIN)/figureground export --out build/image/exports
	$(BUILD) --target cpu --build-context exports=build/image --tag $(IMAGE) .

image-cuda: $(INSTALLED) ## The image that serves on a GPU, with torch: several GB
	$(BIN)/figureground export --out build/image/exports
	$(BUILD) --target cuda --build-context exports=build/image --tag $(IMAGE)-cuda .

image-test: $(INSTALLED) ## Run the image as its operators would (podman), and look at it
	FIGUREGROUND_IMAGE=$(IMAGE) $(BIN)/pytest tests/deploy/test_image.py --timeout=600

image-name:
	@echo $(IMAGE)

sbom: ## The image's software bill of materials (CycloneDX), out of the image into build/
	mkdir -p build
	podman create --name figureground-sbom $(IMAGE) > /dev/null
	podman cp figureground-sbom:/opt/figureground/sbom.cdx.json build/$(subst :,-,$(notdir $(IMAGE))).cdx.json; \
	    code=$$?; podman rm --volumes figureground-sbom > /dev/null; exit $$code

clean: ## Remove what was built and drawn, not the installation
	rm -rf build dist demo screenshots loadtests/results .pytest_cache .mypy_cache .ruff_cache .hypothesis
