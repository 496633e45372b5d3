# Everything runs in a virtual environment of this tree, made from constraints.txt by .ci/install.
# Variables: PYTHON (interpreter to build it with), VENV (where), JOBS (test processes),
# DEMO (arguments of the demonstration), ATTACKS (arguments of `make attacks`),
# ARGS (a selection for pytest; coverage floors then rest).

PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)
VENV ?= .venv
export PYTHON VENV

.DEFAULT_GOAL := help
.PHONY: help install demo test check format lock campaign campaign-ci accountability crash relay kills attacks clean

help: ## says what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: ## makes the virtual environment, if it is not up to date
	@.ci/install

demo: install ## runs the whole job on this machine: validators, gateways, an attacker
	@$(VENV)/bin/swarmd demo $(DEMO)

test: install ## lint, types, import contracts, tests, coverage floors
	@.ci/test $(ARGS)

check: install ## lint, types and import contracts only
	@.ci/check

format: install ## formats the source and mends what the linter can
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

lock: ## pins all dependencies anew in constraints.txt (UPGRADE=1: to their newest versions)
	@.ci/lock

campaign: install ## every adversary at n = 4, 7, 10, a million seeds; resumes where it was
	@$(VENV)/bin/python benchmarks/campaign.py --endless --verbose --state .cache/adversaries.json

campaign-ci: install ## the same within ten minutes: floors, planted defects, equal traces
	@$(VENV)/bin/python benchmarks/campaign.py

accountability: install ## forks by more than f liars: who is convicted; resumes where it was
	@for n in 4 7; do $(VENV)/bin/python benchmarks/accountability.py --n $$n \
		--state .cache/accountability-$$n.json || exit 1; done

crash: install ## power loss at every disk operation of the stores, 60 torn variants of each
	@SWARMD_CRASH_SEEDS=60 $(VENV)/bin/python -m pytest -q -n 2 tests/ledger/crash tests/chunks/crash

relay: install ## transfers over modelled thin links, every situation; resumes where it was interrupted
	@$(VENV)/bin/python benchmarks/relay_campaign.py --state .cache/relay.json

kills: install ## kills a downloading process 200 times at random: what has to be fetched again
	@PYTHONPATH=. $(VENV)/bin/python benchmarks/store_kills.py

attacks: install ## every attack of docs/attacks.md with several seeds; writes that page
	@$(VENV)/bin/python benchmarks/attacks.py $(ATTACKS)

clean: ## removes the environment, caches and build products
	rm -rf .venv .venv.lock .cache build dist
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
