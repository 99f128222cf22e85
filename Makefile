# Each command is the same at the desk and in CI. `make help` lists them.
PG ?= $(shell . tools/versions.sh && echo $$MAJORS)
DEMO_PG ?= 15
# Those that Debian 12 and 13 have.
INSTALL_PG ?= 15 17
UPGRADES ?= 14:18,15:18,17:18,14:15,15:16,16:17
# Those whose sources Debian has.
CORE_PG ?= 15 18
FUZZ_PG ?= 18
INJECT_PG ?= 14 15 18
CLIENTS_PG ?= 18
MINUTES ?= 10
TRANSACTIONS ?= 1000000
CROWD ?= 200x1000
PYTHON = build/venv/bin/python

.PHONY: help setup demo audit-demo demo-web demo-down test lint core assert inject wrapped clients-large upgrade packages install-test freeze release fuzz unit bench memory crowd clean

help:
	@grep -hE '^## ' $(MAKEFILE_LIST) | sed 's/^## //'

## make setup      installs what is missing into build/ (PostgreSQL, cargo-pgrx, Python packages)
setup:
	@tools/setup $(PG)

## make demo       real users, real data, one pooled connection; the server keeps running
demo:
	@tools/setup $(DEMO_PG)
	@tools/install $(DEMO_PG)
	@$(PYTHON) demo/run.py $(DEMO_PG)

## make audit-demo what the demo's users leave on record, as tables; the server keeps running
audit-demo:
	@tools/setup $(DEMO_PG)
	@tools/install $(DEMO_PG)
	@$(PYTHON) demo/audit.py $(DEMO_PG)

## make demo-web   the demo as a web application to look at (PORT=8080); the server keeps running
demo-web:
	@tools/setup $(DEMO_PG)
	@tools/install $(DEMO_PG)
	@$(PYTHON) demo/web.py $(DEMO_PG)

## make demo-down  stops the demo's server and removes its data
demo-down:
	@$(PYTHON) demo/down.py $(DEMO_PG)

## make test       everything: format, lint, unit tests, pg_tests, clients and attacks, on each version (PG="15 18"; PG=19 is tried where it can be had)
test:
	@tools/setup $(PG)
	@$(PYTHON) tests/run.py $(PG)

## make lint       format and clippy only
lint:
	@tools/setup $(PG)
	@$(PYTHON) tests/run.py --only format,lint $(PG)

## make core       PostgreSQL's own tests with the library loaded, alone and beside pgaudit (CORE_PG="15 18")
core:
	@tools/setup $(CORE_PG)
	@tools/install $(CORE_PG)
	@$(PYTHON) tests/core/run.py $(CORE_PG)

## make assert     attacks and clients against PostgreSQL 18 built with assertions
assert:
	@tools/setup 18
	@tools/install 18
	@$(PYTHON) tests/run.py --only assert 18

## make inject     an error, a cancel and a panic at every point of every hook (INJECT_PG="14 15 18")
inject:
	@tools/setup $(INJECT_PG)
	@$(PYTHON) tests/run.py --only inject $(INJECT_PG)

## make wrapped    PostgreSQL's own tests, every read of every table rewritten as if it had masks: only plans may differ (CORE_PG="15 18")
wrapped:
	@tools/setup $(CORE_PG)
	@$(PYTHON) tests/run.py --only wrapped $(CORE_PG)

## make clients-large applications that take minutes to install: pgAdmin, Superset, Rails, Laravel, Hibernate (CLIENTS_PG="15 18")
clients-large:
	@tools/setup $(CLIENTS_PG)
	@tools/install $(CLIENTS_PG)
	@for version in $(CLIENTS_PG); do \
	    PG_VERSION=$$version $(PYTHON) -m pytest -q --tb=short -p no:cacheprovider tests/drivers_large || exit 1; done

## make upgrade    pg_upgrade, dump and restore, replication between versions, from each release to this one and on to the next: who has which access (UPGRADES="15:18,17:18")
upgrade:
	@tools/setup $(PG)
	@tools/install $(PG)
	@RELEASES=all UPGRADES=$(UPGRADES) $(PYTHON) -m pytest -q --tb=short -p no:cacheprovider tests/upgrade

## make packages   for Debian, and archives with an install script, optimised, into build/dist (PG="15 18"; minutes for each)
packages:
	@tools/setup $(PG)
	@tools/package $(PG)

## make install-test installing, upgrading and removing in new Debian systems, by the words of the pages (INSTALL_PG="15 17"; PACKAGES=build/dist)
install-test:
	@tools/setup $(INSTALL_PG)
	@[ -n "$(PACKAGES)" ] || tools/install $(INSTALL_PG)
	@PACKAGES=$(PACKAGES) $(PYTHON) -m pytest -q --tb=short -p no:cacheprovider tests/install

## make freeze     the script of this version into sql/released; see docs/release.md
freeze:
	@tools/freeze

## make release    the checklist of docs/release.md; what is published is in build/dist then (tools/release STEP for one step)
release:
	@tools/setup $(PG)
	@tools/release

## make fuzz       ten minutes each of random SQL by an impersonated user and by one who sees masks, two of random tokens and keys (FUZZ_PG=18 MINUTES=10)
fuzz:
	@tools/setup $(FUZZ_PG)
	@tools/install $(FUZZ_PG)
	@$(PYTHON) tests/fuzz/tokens.py --minutes 2 $(FUZZ_PG)
	@tools/assert-build $(FUZZ_PG)
	@IMMUTA_PG_TREES=$(CURDIR)/build/pg-assert $(PYTHON) tests/fuzz/masks.py --minutes $(MINUTES) $(FUZZ_PG)
	@$(PYTHON) tests/fuzz/run.py --minutes $(MINUTES) $(FUZZ_PG)

## make bench      what impersonation costs, in server instructions, and changes of subscriptions (PG="15 18"; draws docs/*.svg)
bench:
	@tools/setup $(PG)
	@$(PYTHON) tests/bench/run.py $(PG)
	@$(PYTHON) tests/bench/subscriptions.py $(PG)

## make memory     of one session over a million transactions with everything logged (TRANSACTIONS=1000000 FUZZ_PG=18)
memory:
	@tools/setup $(FUZZ_PG)
	@tools/install $(FUZZ_PG)
	@$(PYTHON) tests/bench/memory.py --transactions $(TRANSACTIONS) $(FUZZ_PG)

## make crowd      many sessions, many tokens, and a provider that is asked about each once (CROWD=200x1000 FUZZ_PG=18)
crowd:
	@tools/setup $(FUZZ_PG)
	@tools/install $(FUZZ_PG)
	@CROWD=$(CROWD) PG_VERSION=$(FUZZ_PG) $(PYTHON) -m pytest -q --tb=short -p no:cacheprovider tests/providers/test_together.py -k many_tokens

## make clean      removes everything that was built or installed below build/ and target/
clean:
	@[ ! -d build/clean ] || rm -rf build/clean 2>/dev/null || sudo -n rm -rf build/clean
	rm -rf build target
