# Everything runs inside .venv, made on first use and kept up to date with pyproject.toml.
PYTHON ?= python3
STAMP := .venv/.installed
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile

.PHONY: help demo test test-fast test-lowest coverage mutants lint docs package clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -c constraints.txt torch
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## measure the matches of a stereo pair and a rendered scene, offline -> disk-demo/
	.venv/bin/disk demo

test: $(STAMP)  ## all tests
	$(PYTEST)

test-fast: $(STAMP)  ## the tests that take less than a tenth of a second each
	$(PYTEST) -m "not slow and not medium"

# the second environment has the core alone: other packages need a newer numpy
test-lowest:  ## all tests with Python 3.10 and the oldest versions that pyproject.toml allows, in .venv-lowest
	test -x .venv-lowest/core/bin/python || (python3.10 -m venv .venv-lowest && python3.10 -m venv .venv-lowest/core)
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/core/bin/python --resolution lowest-direct --upgrade .
	.venv-lowest/core/bin/python tests/installed.py
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --upgrade -e '.[dev]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 --dist loadfile

coverage: $(STAMP)  ## all tests with the share of lines they run, at least 90 %
	$(PYTEST) --cov=disk --cov-report=term:skip-covered --cov-fail-under=90

mutants: $(STAMP)  ## small faults in the code that training and evaluation rest on: do the tests notice? (hours)
	OMP_NUM_THREADS=1 .venv/bin/python tests/mutants.py

lint: $(STAMP)  ## formatting, types, imports between the rooms
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: $(STAMP)  ## the documentation site -> site/
	.venv/bin/python docs/make_commands.py --check
	.venv/bin/mkdocs build --strict --quiet

package: $(STAMP)  ## wheel and sdist -> dist/, installed into a clean environment and tried
	rm -rf dist .venv-package
	.venv/bin/pyproject-build --outdir dist . > /dev/null
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet -c constraints.txt "$$(echo dist/*.whl)"
	.venv-package/bin/python tests/installed.py

clean:  ## remove what the targets made
	rm -rf .venv .venv-lowest .venv-package disk-demo dist site
