# Everything the book needs, from a fresh machine with Python 3.11 or newer: `make help` lists it.
# The virtual environment is made in .venv, and made again only when pyproject.toml changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
LAB_INSTALLED := $(VENV)/.installed-lab
NOTEBOOKS ?=
BENCH ?=

# Tools, and the kernel `python3` of the notebooks, come from the environment and nowhere else.
PATH_OUTSIDE := $(PATH)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
unexport PYTHONPATH PYTHONHOME

.PHONY: help book test lab notebooks lint lowest bench browser repository clean

help: ## Show this list
	@echo "CMSSF, the book that runs. Usage: make TARGET [PYTHON=python3.12]"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

book: $(INSTALLED) ## Build the website into _build/html
	CMSSF_PRESET=quick TQDM_DISABLE=1 jupyter-book build . --config _config.yml --toc book/_toc.yml -W -n --keep-going
	@echo "The book is ready: open _build/html/index.html"

test: $(INSTALLED) browser ## Check everything: lint, types, book, library, notebooks, site
	python .ci/stages.py

lab: $(LAB_INSTALLED) ## Open the notebooks in JupyterLab
	jupyter lab notebooks

notebooks: $(INSTALLED) ## Execute the notebooks in place and store their outputs [NOTEBOOKS="notebooks/x.ipynb …"]
	python .ci/execute_notebooks.py $(NOTEBOOKS)

lint: $(INSTALLED) ## Check style, format and types
	ruff check .
	ruff format --check .
	mypy

# Without the site, the notebooks and the oracles, whose libraries have bounds of their own.
LOWEST_TESTS := tests --ignore=tests/site --ignore=tests/oracles --ignore=tests/notebooks \
  --ignore=tests/test_setup.py --ignore=tests/test_benchmarks.py --ignore=tests/test_pretrained_text.py
lowest: ## Test the library with the oldest versions that pyproject.toml allows
	"$(PYTHON)" -m venv _build/lowest
	_build/lowest/bin/python -m pip install --disable-pip-version-check --progress-bar off \
	  -r <("$(PYTHON)" .ci/lowest.py) -e .
	OMP_NUM_THREADS=1 _build/lowest/bin/python -m pytest $(LOWEST_TESTS) -n auto --dist loadfile

bench: $(INSTALLED) ## Time the library beside lightly, minutes [BENCH="views step overhead captions chunks busy disk gpu mae"]
	PYTHONPATH=tests python -m benchmarks $(BENCH)

repository: ## Set the repository's address everywhere [URL=https://github.com/ada/book, or URL=none]
	"$(PYTHON)" .ci/set_repository.py "$(URL)"

clean: ## Remove what was built and the caches of the tools (not .venv, no data, no runs)
	rm -rf _build build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cmssf_lib tests .ci book notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# A failed or interrupted installation leaves no stamp, so the next call repeats it.
$(INSTALLED): pyproject.toml
	@export PATH="$(PATH_OUTSIDE)"; \
	command -v "$(PYTHON)" >/dev/null || { echo "No $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$("$(PYTHON)" --version) is too old: the book needs Python 3.11 or newer. Name one: make PYTHON=python3.12" >&2; exit 1; }; \
	"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) could not make a virtual environment (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[book,test]"
	@touch $@

$(LAB_INSTALLED): $(INSTALLED)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[lab]"
	@touch $@

# The site is tested in a real browser. It is installed where that needs no question to anybody.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Debian's Chromium for the tests of the site"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	    echo "Chromium could not be installed: the browser tests will be skipped."; \
	else \
	  echo "No Chromium here, and only root on Debian may install it: the browser tests will be skipped."; \
	fi
