# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
# The system's libraries that MediaPipe and its OpenCV link; installed only where they are missing and we may.
SYSTEM := libegl1 libgles2 libgl1 libglib2.0-0

# What the tests of a team's server start, and a browser that looks at its pages; without them
# those tests are skipped.
DATABASES := postgresql redis-server
BROWSER := chromium

.PHONY: quickstart test test-slow lint setup system databases browser clean
quickstart: .venv/ready
	$(BIN)/synth-pipeline run configs/quickstart.yaml --root quickstart

test: .venv/ready databases browser lint
	$(BIN)/python -m pytest

test-slow: .venv/ready databases browser
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(MAKE) system
	$(BIN)/synth-pipeline doctor --fetch
	touch $@

system:
	@if ldconfig -p | grep -q libEGL.so.1 && ldconfig -p | grep -q libGLESv2.so.2 && ldconfig -p | grep -q libGL.so.1 && ldconfig -p | grep -q libgthread-2.0.so.0; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM); \
	else echo "MediaPipe needs $(SYSTEM); on Debian: sudo apt-get install $(SYSTEM)" >&2; exit 2; fi

databases:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v redis-server >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DATABASES); fi

# Not every distribution has it, and the tests do without: so no failure of this stops them.
browser:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BROWSER) \
	  || echo "no $(BROWSER): the tests that need a browser are skipped" >&2; fi

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
