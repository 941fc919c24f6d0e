# `make demo` and `make test` set everything up by themselves; see README.md.
# Any Python from 3.10 to 3.12 will do: make test PYTHON=python3.12
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11 python3.10,$(if $(shell \
	$(p) -c 'import sys; print(sys.version_info[:2] in [(3, 10), (3, 11), (3, 12)] or "")' \
	2>/dev/null),$(p))))
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test network check format clean

demo: $(READY)
	$(BIN)/ffn-edge demo --output demo

test: $(READY)
	$(BIN)/python -m pytest

network: $(READY)
	$(BIN)/python -m pytest -m network

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto -m "not network and not slow"

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): requirements.txt setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "ffn-edge needs Python 3.10, 3.11 or 3.12:" \
		"install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into .venv: some 6 GB, which takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
