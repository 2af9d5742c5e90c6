# The commands of Milepost. Settings go in the environment: GPX=file make run, LISTEN=0.0.0.0 make run, GATEWAYS=2 CONSUMERS=2 make up.
.DEFAULT_GOAL := help
.PHONY: help run up down test torture mutants mixed bench model check-compose check-workflow check-dependencies clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Run all of it and play a track (GPX=file), and phone apps (LISTEN=0.0.0.0: real ones too); Ctrl-C stops it
	@services/run

up: ## Start all of it in the background (GATEWAYS=n CONSUMERS=n); its addresses and keys are in .dev/env
	@services/up
	@services/phone

down: ## Stop it; the data stay
	@services/down

test: ## Check format and lints, run all tests on servers of their own
	@tests/run

torture: ## Run it under load and faults and check every invariant (PLAN=smoke|default|long SEED=n)
	@torture/run run --plan $(or $(PLAN),default) $(if $(SEED),--seed $(SEED))

mutants: ## Plant each bug in turn: the checker named for it has to catch it (ONLY=name SEED=n)
	@torture/run mutants $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED))

mixed: ## Roll the next build over this one under load, and back (torture/next-version.patch)
	@torture/run mixed

bench: ## Measure it on a quiet machine (half an hour; QUICK=1: 5 minutes, FULL=1: every size)
	@bench/run --size $(if $(QUICK),quick,$(if $(FULL),full,standard))

model: ## Check every state of the protocol's model (SIZE=standard|big)
	@cargo run --locked --release --quiet -p milepost-model -- --size $(or $(SIZE),standard)

check-compose: ## Check docker-compose.yml, as far as it can be without Docker
	@services/check-compose

check-workflow: ## Check the CI workflow with actionlint
	@tests/check-workflow

check-dependencies: ## Check licences, sources, duplicates and unused dependencies (ADVISORIES=1: known faults too)
	@tests/check-dependencies

clean: ## Stop it and remove what the others left: data, logs, downloads, builds
	@services/clean
