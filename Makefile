# `make` lists the targets. Each is one command or one script in hack/, so that it can be run without make too.

# Go stamps the commit into the binaries where git can be asked for it.
VCS := $(shell git rev-parse --verify --quiet HEAD >/dev/null 2>&1 || echo -buildvcs=false)
TOOL := go tool -modfile=hack/tools/go.mod
FUZZTIME ?= 20000x

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/keyvault-csi, bin/keyvault-render, bin/keyvault-controller and bin/keyvault-emulator, static
	hack/build $(VCS) -o bin/ ./cmd/keyvault-csi ./cmd/keyvault-render ./cmd/keyvault-controller ./cmd/keyvault-emulator

.PHONY: image
image: ## Build the container images into bin/image, without Docker; the same bytes from the same commit
	go -C hack/image run . -source "$(CURDIR)" $(ARGS)

.PHONY: release-snapshot
release-snapshot: ## Make everything that a tag publishes into bin/release, without network; the same bytes from the same commit
	hack/release

.PHONY: test-image
test-image: ## Build the driver's image twice from what is committed, and look whether the bytes are the same and what is in them
	DIR=hack/image PROGRAMS= hack/gotest -race=false ./...

.PHONY: demo
demo: ## Show the main job: no Azure, no cluster, no network, as root or not
	@hack/demo/run

.PHONY: test
test: ## Run the tests, as root or not; ARGS are passed to go test
	hack/test $(ARGS)

.PHONY: test-programs
test-programs: ## Build what the tests run, for `go test` without make
	hack/test-programs

.PHONY: test-integration
test-integration: ## Run the tests against a real API server, which the first run builds; ARGS are passed to go test
	hack/test-integration $(ARGS)

.PHONY: cluster-up
cluster-up: ## Run Kubernetes (KUBERNETES=1.32.13: that version) on this machine, with a real node, as root; the first run builds it
	@hack/test-programs cluster && .cache/test/cluster up

.PHONY: cluster-down
cluster-down: ## End what cluster-up has started; nothing of it is left
	@hack/test-programs cluster && .cache/test/cluster down

.PHONY: e2e
e2e: ## Install the chart on a cluster of its own and run Pods, as root; ARGS are passed to go test
	hack/e2e $(ARGS)

.PHONY: nightly
nightly: ## Run the integration and e2e tests on the oldest supported Kubernetes (or KUBERNETES=1.37.2), as root, an upgrade from the last release, then scale and soak
	hack/nightly $(ARGS)

.PHONY: upgrade
upgrade: ## Upgrade the last release of the chart (ARGS=REVISION) to this one on a real node under Pods, and roll it back
	hack/upgrade $(ARGS)

.PHONY: test-clients
test-clients: ## Run Microsoft's Go, JavaScript and Python clients against the emulator (npm; Debian: python3-azure)
	hack/test-clients $(ARGS)

.PHONY: test-page
test-page: ## Open the emulator's page in a headless Chromium (Debian: chromium)
	hack/test-page $(ARGS)

.PHONY: test-azurite
test-azurite: ## Run push rotation over a storage queue: Azurite's, over TLS with tokens of Entra ID (npm)
	hack/test-azurite $(ARGS)

.PHONY: test-monitoring
test-monitoring: ## Run alert rules and dashboard against a real Prometheus and driver (Debian: prometheus)
	hack/test-monitoring

.PHONY: bench
bench: ## Print the driver's figures beside a program that asks as the Azure provider does, and draw them; BENCH selects Go benchmarks
	hack/bench

.PHONY: bench-cluster
bench-cluster: ## Print memory with 5,000 classes, and requests, against a real API server
	hack/bench-cluster

.PHONY: bench-e2e
bench-e2e: ## Print the figures of the installed driver on a real node, as root
	hack/bench-e2e

.PHONY: scale
scale: ## Simulate fleets of up to 5,000 nodes in fake time, and print their figures; ARGS are passed to go test
	hack/scale $(ARGS)

.PHONY: soak
soak: ## Run the driver for an hour (SOAK=5m: for minutes) while Pods come and go and faults pass, and look whether all returns to the start
	hack/soak $(ARGS)

.PHONY: soak-short
soak-short: ## make soak for two minutes
	SOAK=2m hack/soak $(ARGS)

.PHONY: chaos
chaos: ## Break things while the driver works, and look for harm through the mounts; CHAOS=short takes a sample
	hack/chaos $(ARGS)

.PHONY: chaos-short
chaos-short: ## A sample of make chaos
	CHAOS=short hack/chaos $(ARGS)

.PHONY: coverage
coverage: ## Print which statements the tests run, per package: unit, system, integration and e2e tests; DOCS=1 writes the table of CONTRIBUTING.md
	hack/coverage $(ARGS)

.PHONY: mutation
mutation: ## Change the rules one operator at a time, and print the changes that no test notices
	hack/mutation $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz every target FUZZTIME (20000x: as many runs)
	FUZZTIME=$(FUZZTIME) hack/fuzz

.PHONY: lint
lint: ## Run the linters
	go tool -modfile=hack/tools/actionlint/go.mod actionlint -shellcheck= -pyflakes=
	$(TOOL) golangci-lint run ./...
	cd hack/image && go tool -modfile=../../hack/tools/go.mod golangci-lint run --config ../../.golangci.yml ./...
	cd hack/plot && go tool -modfile=../../hack/tools/go.mod golangci-lint run --config ../../.golangci.yml ./...
	cd hack/tools/strict && go tool -modfile=../go.mod golangci-lint run --config ../../../.golangci.yml ./...

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities
	hack/vulncheck

.PHONY: generate
generate: ## Generate deep copies and CRDs from the API types
	hack/generate

.PHONY: check-generated
check-generated: ## Fail if a generated file is not current
	hack/generate --check

.PHONY: site
site: ## Build the documentation as a web site into bin/site, and check its links (Debian: mkdocs mkdocs-material)
	hack/site

.PHONY: clean
clean: ## Remove what was built here
	rm -rf bin .cache
