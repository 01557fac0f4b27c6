# Every target is one line you can run by hand. Each first sets up what is missing (see tools/bootstrap.py);
# on Windows, or without make, type the line itself: python tools/bootstrap.py lab|test|demo|setup
PYTHON ?= python3
SETUP  := $(PYTHON) tools/bootstrap.py
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help lab test demo setup lint types figures parity slow repeats screenshots notebooks-reset notebooks-update clean

help:              ## this list
	@grep -E '^[a-z-]+: +##' Makefile | sed 's/: *## */\t/' | expand -t 20

lab:               ## open JupyterLab on the first notebook
	$(SETUP) lab $(ARGS)

test:              ## the whole suite, notebooks included
	$(SETUP) test $(ARGS)

demo:              ## the main job without a browser: a notebook run into runs/demo/, and its HTML
	$(SETUP) demo

setup:             ## only what the others do first: .venv and everything in it
	$(SETUP) setup

lint:              ## style of code and notebooks (ARGS=--fix repairs)
	$(SETUP) run -m ruff check . $(ARGS)

types:             ## the type checker
	$(SETUP) run -m mypy $(ARGS)

figures:           ## measure the figures that the README promises
	$(SETUP) run tools/figures.py $(ARGS)

parity:            ## only the comparison with the reference systems' recorded numbers
	$(SETUP) run -m pytest tests/parity $(ARGS)

slow:              ## the tests that take minutes
	$(SETUP) run -m pytest -m slow --timeout 1800 $(ARGS)

repeats:           ## twenty pairs of equal benchmarks: do they differ by less than the interval they print?
	$(SETUP) run -m pytest -m slow -s --timeout 3600 tests/test_bench_repeats.py $(ARGS)

screenshots:       ## the tests in a real browser; they leave their screenshots in artifacts/
	$(SETUP) run -m pytest tests/browser -m browser $(ARGS)

notebooks-reset:   ## bring back the committed notebooks (your changes in them are lost)
	git checkout -- notebooks

notebooks-update:  ## run every notebook and store its fresh outputs
	$(SETUP) run tools/update_notebooks.py $(ARGS)

clean:             ## remove what set-up and tests left; runs/ and checkpoints/local/ stay
	rm -rf .venv artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
