# The verbs of the project. `make up` runs it, `make test` says whether it is sound.
# ARGS are handed on: make up ARGS="--port 9000 --no-demo", make test ARGS=lint.

VENV := .venv
UV = $(VENV)/bin/uv --quiet --system-certs
COMPILE = $(UV) pip compile --generate-hashes --universal --python-version 3.11 --custom-compile-command "make lock"
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c '$(IS_NEW_ENOUGH)' 2>/dev/null && { echo "$$python"; break; }; done)

# An environment that has the development set keeps it: `make up` never takes tools away.
SET := $(if $(wildcard $(VENV)/dev.stamp),dev,runtime)

.PHONY: up dev test lint format lock bench sbom pictures

up: $(VENV)/$(SET).stamp
	@exec $(VENV)/bin/python manage.py up $(ARGS)

dev: $(VENV)/dev.stamp
	@GATEHOUSE_DEV=1 exec $(VENV)/bin/python manage.py runserver $(ARGS)

test: $(VENV)/dev.stamp
	@exec $(VENV)/bin/python -m tests.run $(ARGS)

lint: $(VENV)/dev.stamp
	@exec $(VENV)/bin/python -m tests.run lint

format: $(VENV)/dev.stamp
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format --quiet .

sbom: $(VENV)/dev.stamp
	@exec $(VENV)/bin/python -m tests.static.supply --sbom sbom.json

pictures: $(VENV)/dev.stamp
	@exec $(VENV)/bin/python -m tests.pictures

bench: $(VENV)/dev.stamp
	@exec $(VENV)/bin/python benchmarks/run.py $(ARGS)

# Keeps the versions that are locked unless asked otherwise: make lock ARGS=--upgrade
lock: | $(VENV)/bin/uv
	@$(COMPILE) $(ARGS) --output-file requirements.lock pyproject.toml
	@$(COMPILE) $(ARGS) --output-file requirements-dev.lock --extra dev --constraint requirements.lock pyproject.toml
	@$(COMPILE) $(ARGS) --output-file requirements-uv.lock requirements-uv.in

$(VENV)/runtime.stamp: requirements.lock | $(VENV)/bin/uv
	@echo "Installing the packages of Gatehouse ..."
	@$(UV) pip sync --python $(VENV)/bin/python --require-hashes requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock | $(VENV)/bin/uv
	@echo "Installing the packages of Gatehouse and its development tools ..."
	@$(UV) pip sync --python $(VENV)/bin/python --require-hashes requirements-dev.lock
	@touch $@

$(VENV)/bin/uv: requirements-uv.lock | $(VENV)/bin/python
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Gatehouse needs Python 3.11 or newer. Install one, or name it: make up PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { echo "$(PYTHON) is older than Python 3.11, which Gatehouse needs." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "$(PYTHON) cannot make a virtual environment with pip. On Debian and Ubuntu: apt-get install python$$version-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
