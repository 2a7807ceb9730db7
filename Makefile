# `make demo` and `make test` set up what they need in $(VENV) and do the rest.
# A Python of your choice: make PYTHON=/path/to/python3

VENV ?= .venv
PYTHON ?=
ARGS ?=
EXAMPLES ?= 1000
SECONDS ?= 60
SOAK ?= 600

RUN := $(VENV)/bin/python
COMPILED := $(shell find pgambassador -name '*.pyx' -o -name '*.pxd')
MODULES = $(subst /,.,$(basename $(filter %.pyx,$(COMPILED))))
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

.PHONY: help demo test adversity soak resilience fuzz suites check format bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    a primary, a replica and the ambassador, to try"
	@echo "make test    all tests (ARGS='-k name' for some)"
	@echo "make adversity  clients, cancels and killed servers at random, against a ledger of what was told;"
	@echo "             whose answer is whose, a million times (SECONDS=n)"
	@echo "make soak    ten minutes of faults at random, with the same ledger (SOAK=seconds, SEED=n)"
	@echo "make resilience  what failures cost, measured (ARGS='--rounds 1' for a quick look)"
	@echo "make fuzz    random conversations and broken messages, for minutes (EXAMPLES=n)"
	@echo "make suites  drivers' own test suites, directly and through the ambassador (ARGS=asyncpg for one)"
	@echo "make check   format, lint, types, stubs"
	@echo "make format  write the format that check wants"
	@echo "make bench   side by side with PgBouncer"
	@echo "make clean   remove what was built"

demo: $(VENV)/installed-demo
	@exec $(RUN) -m pgambassador demo $(ARGS)

# All of them by some more workers than there are processors; some of them as they are asked for, without what
# workers cost. What is compiled is kept, since each worker needs all of it, and each ambassador the rest.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/installed-dev
	-@$(RUN) -m compileall -q pgambassador  # hundreds of ambassadors are started
	$(RUN) -m pytest $(or $(ARGS),--numprocesses auto --durations 15)

adversity: $(VENV)/installed-dev
	PGAMBASSADOR_SECONDS=$(SECONDS) PGAMBASSADOR_LONG=1 \
		$(RUN) -m pytest tests/adversity tests/integration/test_markers.py tests/same/test_batched.py $(ARGS)

soak: $(VENV)/installed-dev
	SOAK=$(SOAK) $(RUN) -m pytest -s tests/adversity/test_chaos.py $(ARGS)

resilience: $(VENV)/installed-dev
	$(RUN) -m tests.adversity.figures $(ARGS)

fuzz: $(VENV)/installed-dev
	PGAMBASSADOR_LONG=$(EXAMPLES) $(RUN) -m pytest --timeout 1800 tests/same tests/fuzz $(ARGS)

suites: $(VENV)/installed-dev
	$(RUN) -m tests.suites $(ARGS)

check: $(VENV)/installed-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m mypy.stubtest --allowlist tests/stubtest.txt --ignore-unused-allowlist --ignore-disjoint-bases $(MODULES)
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint pgambassador

format: $(VENV)/installed-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: $(VENV)/installed-bench
	$(RUN) -m benchmarks $(ARGS)

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find pgambassador \( -name '*.so' -o -name '*.c' -o -name __pycache__ \) -exec rm -rf {} +
	rm -f $(VENV)/installed-*

# An editable install per set of extras, again whenever something compiled or the project file changed.
# Every set contains `demo`, so that one is done with any of them.
$(VENV)/installed-%: pyproject.toml $(COMPILED) | $(RUN)
	@command -v $${CC:-cc} >/dev/null || \
		{ echo "No C compiler was found: install one (Debian: apt-get install build-essential)." >&2; exit 1; }
	@test -f "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
		{ echo "Python.h was not found: install Python's headers (Debian: apt-get install python3-dev)." >&2; exit 1; }
	@echo "Building pgambassador in $(VENV) ..."
	@$(PIP) install --editable '.[$*]'
	@touch $(VENV)/installed-demo $@

$(RUN):
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "No Python 3.11 or newer with its venv module was found: install one" \
		"(Debian: apt-get install python3-venv python3-dev) or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1
