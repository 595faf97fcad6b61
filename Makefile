# Everything here needs Python 3.11 to 3.13, make and a package index; the rest installs itself into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PROFILE ?= mini
# Processes of `make book` and `make reproduce`; empty means one for each core.
CORES ?=
# Worker processes of `make test`.
WORKERS ?= 2
PORT ?= 8000
# Not every pinned package has a wheel for 3.14 yet, and a new machine has no compiler to do without.
USABLE := 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# A Python that runs and can make virtual environments; looked up only when .venv has to be made.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c $(USABLE) 2>/dev/null && echo $$python && break; done)

# An environment whose Python is gone (an upgrade, another version manager) cannot be mended: it is made anew.
$(shell test ! -e .venv || test -x .venv/bin/python || rm -rf .venv)
PY := .venv/bin/python
UV := .venv/.uv/bin/uv
READY := .venv/.ready
HTML := $(or $(ZOOLIB_BUILD),build)/book-out/_build/html
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

.PHONY: help book reproduce test bench lint notebooks rehearse serve clean

help:
	@echo 'Targets (variables: PROFILE=smoke|mini|lab|paper, CORES=n, PYTHON=path):'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

book: $(READY) ## compute the core of PROFILE (default mini), build the offline book and print its path
	@$(PY) -m zoolib workflow book --profile $(PROFILE) $(if $(CORES),--cores $(CORES))

reproduce: $(READY) ## recompute every record of PROFILE; run it again to go on where it stopped
	@$(PY) -m zoolib workflow reproduce --profile $(PROFILE) $(if $(CORES),--cores $(CORES))

test: $(READY) ## run the tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

bench: $(READY) ## measure throughput against one single model
	@$(PY) -m benchmarks $(ARGS)

rehearse: $(READY) ## try the paper profile on tiny archives: every dataset and hub, three steps each (half an hour)
	@$(PY) -m benchmarks.rehearse $(ARGS)

lint: $(READY) ## check format, style, types, and that notebooks carry no outputs
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(if $(NOTEBOOKS),$(PY) -m nbstripout --verify $(NOTEBOOKS))

notebooks: $(READY) ## open the notebooks in JupyterLab
	@$(PY) -m jupyter lab notebooks

serve: $(READY) ## serve the built book at this machine's PORT (default 8000)
	@test -f $(HTML)/index.html || { echo 'there is no book yet: run `make book` first' >&2; exit 1; }
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory $(HTML)

clean: ## remove build/ (records that were recomputed here too) and the generated pages; .venv stays
	rm -rf build book/generated .snakemake .pytest_cache .ruff_cache .mypy_cache

# The set-up. Each step runs again when what it was made from changes, and the last line marks it complete.
$(PY):
	@test -n '$(PYTHON)' && $(PYTHON) -c $(USABLE) 2>/dev/null || { \
		echo 'zoolib needs Python 3.11, 3.12 or 3.13 with its venv module$(PYTHON:%=, and % is none):' \
		'name one with `make PYTHON=/path/to/python3` (on Debian and Ubuntu, `apt install python3-venv` adds the' \
		'module; `uv python install 3.13` brings a Python)' >&2; exit 1; }
	@echo 'Making .venv with $(PYTHON)'
	@$(PYTHON) -m venv .venv

$(UV): requirements-uv.lock | $(PY)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@rm -rf .venv/.uv
	@$(PY) -m pip install --quiet --require-hashes --target .venv/.uv -r requirements-uv.lock
	@touch $@

# uv does not read pip's settings: an index or a certificate that is set for pip alone is passed on to it.
$(READY): requirements.lock pyproject.toml $(UV)
	@echo 'Installing the pinned packages into .venv (about 3 GB, once)'
	@quiet=--quiet; test ! -t 2 || quiet=; \
	index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}}"; \
	test -z "$$index" || export UV_DEFAULT_INDEX="$$index"; \
	test -n "$$SSL_CERT_FILE" || test -z "$$PIP_CERT" || export SSL_CERT_FILE="$$PIP_CERT"; \
	sync="$(UV) pip sync $$quiet --python $(PY) --require-hashes requirements.lock"; \
	$$sync || { echo "Once more, with this system's certificates" >&2; $$sync --system-certs; } && \
	$(UV) pip install --quiet --python $(PY) --offline --no-deps --no-build-isolation --editable .
	@touch $@
