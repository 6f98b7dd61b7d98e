# One command each; every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo demo-image demo-video test test-fast clients check lint bench bench-sampling bench-video bench-textile soak docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) scripts/install $(VENV)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) scripts/install $(VENV) dev
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PYTHON) scripts/install $(VENV) dev,bench
	@touch $@

install: $(VENV)/.installed  ## the package into .venv

demo: $(VENV)/.installed  ## fetch a base, tune it on 15 number pairs through the HTTP API, compare; BASE=gemma-3-270m takes that one
	@exec $(BIN)/kastor demo $(if $(BASE),--base $(BASE)) $(if $(ACCEPT_LICENCE),--accept-licence)

demo-image: $(VENV)/.installed  ## inspection of cloth: base against tuned, with a page of pictures
	@exec $(BIN)/kastor demo image

demo-video: $(VENV)/.installed  ## events in clips and acts of a film: base against tuned, with a page of pictures
	@exec $(BIN)/kastor demo video

test: $(VENV)/.installed-dev  ## the test suite
	@exec scripts/test

test-fast: $(VENV)/.installed-dev  ## its part that starts no processes and needs neither torch nor films: what to run while working
	@exec scripts/test --fast

clients: $(VENV)/.installed-dev  ## environments of Google's clients, and the tests that run the guide with them
	@$(BIN)/python scripts/clients
	@exec $(BIN)/python -m pytest tests/clients

check: $(VENV)/.installed-dev  ## lint, types, contracts; writes nothing
	@exec scripts/check

lint: $(VENV)/.installed-dev  ## the same, mending what can be mended
	@exec scripts/lint

bench: $(VENV)/.installed-bench  ## tokens/s against TRL, one run
	@cd $(CURDIR) && exec $(BIN)/python -m bench.text

bench-sampling: $(VENV)/.installed-bench  ## frames of a video against ffmpeg (13 minutes); CLIPS=folder of videos to make the films of
	@cd $(CURDIR) && exec $(BIN)/python -m bench.sampling $(if $(CLIPS),--clips $(CLIPS))

bench-video: $(VENV)/.installed-bench  ## jobs on videos: epochs, memory, LOW against MEDIUM (25 minutes); CLIPS as above
	@cd $(CURDIR) && exec $(BIN)/python -m bench.video $(if $(CLIPS),--clips $(CLIPS))

bench-textile: $(VENV)/.installed-bench  ## visual inspection of cloth: held-out accuracy at LOW and at MEDIUM (30 minutes)
	@cd $(CURDIR) && $(BIN)/python -m bench.textile; exec $(BIN)/python -m bench.textile --resolution MEDIUM --held-out 150

docs: $(VENV)/.installed-dev  ## regenerate docs/reference
	@exec scripts/docs

soak: $(VENV)/.installed-dev  ## faults on a running job: kill -9, full disk, cancels (minutes)
	@exec $(BIN)/python -m pytest -m slow tests

clean:  ## remove the virtual environments and caches of the tools
	rm -rf $(VENV) .clients .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
