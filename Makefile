# Two commands matter: `make image EPC=16g LOG=error` and `make test`. Both set everything up themselves.

EPC ?= 16g
LOG ?= error
OUT ?= out
VENV := .venv
PYTHON := $(VENV)/bin/python
IMAGEKIT := $(VENV)/bin/imagekit
QUICKSTART := examples/quickstart
KEY := $(QUICKSTART)/enclave-key.pem
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev

# What the tests use besides Python. Where the second list cannot be installed, and this is no
# continuous integration, the tests that need a container engine or a registry are skipped.
TEST_PACKAGES := mount mmdebstrap skopeo umoci openssl strace openjdk-17-jdk-headless:javac
ENGINE_PACKAGES := docker.io:dockerd docker-registry podman runc netavark \
    containernetworking-plugins iproute2:ip iptables cgroupfs-mount

.PHONY: image test lint format benchmark wheel clean help

help:
	@echo "make image EPC=16g LOG=error   the quickstart image, measured and signed, in $(OUT)/"
	@echo "make test                      all tests"
	@echo "make lint                      ruff, mypy, import order"
	@echo "make benchmark                 measurement against plain SHA-256"
	@echo "make wheel                     the wheel, in dist/"

$(READY): pyproject.toml scripts/setup
	scripts/setup $(VENV)

$(DEV_READY): $(READY)
	scripts/setup $(VENV) dev

image: $(READY)
	scripts/need mount mmdebstrap
	$(PYTHON) $(QUICKSTART)/make_standin.py
	test -e $(KEY) || $(IMAGEKIT) key generate $(KEY)
	$(IMAGEKIT) build --file $(QUICKSTART)/imagekit.yaml --epc $(EPC) --log $(LOG) --output oci:$(OUT)

test: $(DEV_READY)
	scripts/need $(TEST_PACKAGES)
	scripts/need --optional $(ENGINE_PACKAGES)
	$(PYTHON) -m pytest

lint: $(DEV_READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(DEV_READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: $(DEV_READY)
	$(PYTHON) -m pip install --quiet -e ".[benchmark]"
	$(PYTHON) benchmarks/measure.py

wheel: $(DEV_READY)
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(OUT) dist build
