# Each target sets up .venv by itself. Assumed: git, make and Python 3.11 with its venv module.

SIZE ?= demo
IMAGE ?= stem
ARGS ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: help demo test test-slow lint bench clean-venv

help:
	@echo "make demo [SIZE=demo|full]  all of LAPA, from video to a driven robot; writes runs/SIZE/report.html"
	@echo "          [IMAGE=stem|tokens|features]  how the VLM sees; the latter two train an image tokenizer first"
	@echo "make test [ARGS=...]        the tests; ARGS goes to pytest"
	@echo "make test-slow              the tests that take minutes"
	@echo "make lint                   ruff"
	@echo "make bench [ARGS=...]       the data pipeline beside others, about an hour; docs/benchmarks.md"
	@echo "make clean-venv             remove .venv; the next target installs it again"

demo: $(INSTALLED)
	$(PYTHON) experiments/demo.py --size=$(SIZE) --image=$(IMAGE)

test: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-slow: $(INSTALLED)
	$(PYTHON) -m pytest -m slow $(ARGS)

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .

bench: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[video,bench]'
	$(PYTHON) benchmarks/data_pipeline.py $(ARGS)

clean-venv:
	rm -rf $(VENV)

# The stamp is written last: a set-up that was killed starts again.
$(INSTALLED): setup.cfg setup.py pyproject.toml
	@set -e; \
	chosen=; \
	for name in python3.11 python3; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	    chosen=$$name; break; \
	  fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: Python 3.11 is needed and neither python3.11 nor python3 is it" \
	    "(python3 is: $$(python3 --version 2>&1 || true)); install python3.11 and its venv module" >&2; \
	  exit 1; \
	fi; \
	echo "== setting up $(VENV) with $$chosen (once; a few minutes, about 1.6 GB)"; \
	$$chosen -m venv $(VENV) || { \
	  echo "error: $$chosen -m venv failed; on Debian: apt install python3.11-venv" >&2; exit 1; }; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[tabletop,video,lerobot,serve,dev]' || { \
	  echo "error: the packages could not be installed (see above); run make again" >&2; exit 1; }; \
	touch $@
