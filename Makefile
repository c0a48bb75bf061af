# Every verb of this repository; the pipeline calls the same ones. Bare `make` lists them.

# GNU Make 3.81, which macOS has, knows no .SHELLFLAGS; it takes options here.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PORT ?= 8000
METRICS_PORT ?= 9464

# The interpreter of the environments: the newest on the PATH, until one is named.
PYTHON ?=
export PYTHON

# Nothing is written outside the checkout, unless the caller names a cache to share.
export XDG_CACHE_HOME ?= $(CURDIR)/.cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

# make and the shell take other paths apart.
ifneq (0,$(strip $(shell printf %s "$$PWD$${XDG_CACHE_HOME-}" | LC_ALL=C tr -d 'A-Za-z0-9./_+@,%=~\200-\377-' | wc -c)))
$(error The path $(CURDIR), or XDG_CACHE_HOME, has a space or another sign that a shell takes for its own: \
use a path of letters, digits and ./_+@,%=~-)
endif

# The caller's settings for other work do not reach ours: how Python runs, where its packages go, which
# database psql opens, where cd looks. Where packages come from stays the caller's to say.
PACKAGES_FROM := PIP_CACHE_DIR PIP_CERT PIP_CLIENT_CERT PIP_CONFIG_FILE PIP_DEFAULT_TIMEOUT \
  PIP_DISABLE_PIP_VERSION_CHECK PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_INDEX_URL PIP_KEYRING_PROVIDER \
  PIP_NO_INDEX PIP_PROXY PIP_RETRIES PIP_TIMEOUT PIP_TRUSTED_HOST UV_CONFIG_FILE UV_DEFAULT_INDEX \
  UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_HTTP_% UV_INDEX UV_INDEX_% UV_INSECURE_HOST UV_KEYRING_PROVIDER \
  UV_NATIVE_TLS UV_NO_INDEX UV_OFFLINE UV_SYSTEM_CERTS
unexport CDPATH $(filter-out $(PACKAGES_FROM) PYTHON PYTHONUNBUFFERED, \
  $(filter PG% PIP_% PYTHON% UV_%,$(.VARIABLES)))
# With LC_ALL=C, Python 3.11 and 3.12 read paths as ASCII; without it they choose UTF-8 themselves.
ifneq (,$(filter C POSIX,$(LC_ALL)))
unexport LC_ALL
endif

# $(call environment,FOLDER,LOCKS [PROJECT]): its file `installed` names the checkout and the
# interpreter. A virtual environment has its own path in its scripts, so that a copied or moved checkout
# needs another one.
define environment
ifneq (,$(filter-out $(shell cat $(1)/installed 2>/dev/null),$(CURDIR) $(PYTHON)))
.PHONY: $(1)/installed
endif
$(1)/installed: $(filter %.lock,$(2))
	@python3 pipeline/install.py $(1) $(2)
endef

# The service, and what tests it.
$(eval $(call environment,.venv,api/requirements-dev.lock api))
STAMP := .venv/installed
BIN := $(CURDIR)/.venv/bin

# What the service is compared with: it must not reach the service's own environment.
$(eval $(call environment,.venv-load,load/requirements.lock))
LOAD_STAMP := .venv-load/installed
LOAD_BIN := $(CURDIR)/.venv-load/bin

# What tests the charts and Terraform.
$(eval $(call environment,.venv-tools,pipeline/tools.lock terraform/testkit/requirements-bare.lock))
TOOLS_STAMP := .venv-tools/installed
TOOLS_BIN := $(CURDIR)/.venv-tools/bin

# What needs older versions of what these use.
$(eval $(call environment,.venv-checkov,pipeline/checkov.lock))
CHECKOV_STAMP := .venv-checkov/installed

# Two programs that the pipeline runs beside credentials, and nothing else.
$(eval $(call environment,.venv-pipeline,pipeline/requirements.lock))
PIPELINE_STAMP := .venv-pipeline/installed
PIPELINE_BIN := $(CURDIR)/.venv-pipeline/bin

# What decides calls to AWS as IAM does. Node is the system's, from 20 on.
IAM_STAMP := .venv-iam/installed
IAM_FILES := $(addprefix terraform/testkit/iam/,package.json package-lock.json .npmrc)
$(IAM_STAMP): $(IAM_FILES)
	@command -v npm >/dev/null || { echo "make infra-slow needs Node 20 or newer, with npm: install nodejs" >&2; exit 1; }
	@rm -rf $(@D) && mkdir $(@D) && cp $(IAM_FILES) $(@D)
	@npm ci --prefix $(@D) --cache '$(XDG_CACHE_HOME)/npm' --loglevel error
	@touch $@

# Generators of clients, and what the generated clients need: Python's packages; npm's and Java's. Go
# keeps its own. Each comes from where npm and Maven take everything.
$(eval $(call environment,.venv-clients,api/tests/clients/requirements.lock))
GENERATORS_STAMP := .venv-generators/installed
GENERATORS_FILES := $(addprefix api/tests/clients/,package.json package-lock.json .npmrc pom.xml jars.sha256)
$(GENERATORS_STAMP): $(GENERATORS_FILES)
	@for program in npm mvn javac; do command -v $$program >/dev/null || \
	  { echo "make generated-clients needs Node 20.19, Java 17 and Maven: install $$program" >&2; exit 1; }; done
	@echo "Installing into $(@D)"
	@rm -rf $(@D) && mkdir $(@D) && cp $(GENERATORS_FILES) $(@D)
	@npm ci --prefix $(@D) --cache '$(XDG_CACHE_HOME)/npm' --loglevel error
	@mvn --batch-mode --quiet --file $(@D)/pom.xml -Dmaven.repo.local='$(XDG_CACHE_HOME)/maven' \
	  dependency:copy-dependencies -DoutputDirectory=jars
	@cd $(@D)/jars && shasum -a 256 *.jar | diff ../jars.sha256 -
	@touch $@

# Programs from Go modules are built once, and kept where the rest of what was downloaded is.
GO_PROGRAMS := $(XDG_CACHE_HOME)/go-programs

.PHONY: help
help: ## Lists the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Installs everything into .venv, from the lock files, with hashes checked

.PHONY: load-setup
load-setup: $(LOAD_STAMP) ## Installs what the load tests compare the service with into .venv-load

# The launcher ends with make, however make ends.
DIE_WITH_MAKE := $(if $(shell command -v setpriv),setpriv --pdeathsig TERM)

.PHONY: run
run: $(STAMP) ## Serves on http://127.0.0.1:8000 with a PostgreSQL of its own (PORT=, METRICS_PORT=)
	@cd api && exec $(DIE_WITH_MAKE) $(BIN)/python -m laptop --port '$(PORT)' --metrics-port '$(METRICS_PORT)'

# What `payments import` takes besides, say IMPORT_FLAGS='--dry-run --table orders'.
IMPORT_FLAGS ?=
export FROM

.PHONY: import
import: $(STAMP) ## Imports the old system's payments into a running `make run` (FROM=, IMPORT_FLAGS=)
	@test -n "$$FROM" || { echo "make import needs FROM=, a SQLite file, a JSON file or the address of /list" >&2; exit 2; }
	@PYTHONPATH=api .venv/bin/python -m laptop.database import --from "$$FROM" \
	  --report .data/import-report.csv $(IMPORT_FLAGS)

.PHONY: compare
compare: $(STAMP) ## Compares the old system's payments with those of a running `make run` (FROM=, IMPORT_FLAGS=)
	@test -n "$$FROM" || { echo "make compare needs FROM=, as make import has it" >&2; exit 2; }
	@PYTHONPATH=api .venv/bin/python -m laptop.database verify --from "$$FROM" $(IMPORT_FLAGS)

# Three tiers: `test`, `test-all`, and .ci/run, which adds what takes a machine of its own. What
# is marked slow in a suite, or needs more than Python's packages, is in the second.
.PHONY: test
test: lint types migrations-lint image-lint unit charts infra-test docs ## What an author runs before a pull request: no Go, no Docker, no browser

.PHONY: test-all
test-all: test unit-slow faults charts-slow monitoring infra-slow peers-test workflows contract generated-clients compat image image-test sbom reproducible ## Everything that needs no cluster

.PHONY: lint
lint: $(STAMP) ## Checks the style (ruff)
	$(BIN)/ruff check && $(BIN)/ruff format --check

.PHONY: format
format: $(STAMP) ## Brings the code into the style (ruff)
	$(BIN)/ruff check --fix && $(BIN)/ruff format

.PHONY: types
types: $(STAMP) $(TOOLS_STAMP) ## Checks the types (mypy, strict)
	for folder in api charts docs pipeline; do (cd $$folder && $(BIN)/mypy); done
	cd terraform/testkit && $(TOOLS_BIN)/mypy

.PHONY: migrations-lint
migrations-lint: $(STAMP) ## Checks that migrations are safe on a live database (squawk)
	cd api && $(BIN)/squawk migrations/[0-9]*.sql

.PHONY: peers-test
peers-test: $(STAMP) $(LOAD_STAMP) ## Checks that what the service is compared with does the same job
	cd load && MYPYPATH=peers:../api $(BIN)/mypy --config-file ../api/pyproject.toml \
	  --cache-dir .mypy_cache --python-executable $(LOAD_BIN)/python *.py drill peers tests
	cd load && PYTHONPATH=../api $(LOAD_BIN)/python -m pytest -p leaks -ra -W error --timeout 300 \
	  -p no:cacheprovider tests

.PHONY: generated-clients
generated-clients: $(STAMP) .venv-clients/installed $(GENERATORS_STAMP) ## Generates clients of the contract with nine generators, compiles and uses them
	cd api && $(BIN)/python -m pytest -v -n 2 tests/clients

# Its figures mean something only where nothing else runs.
BENCH = cd load && PYTHONPATH=../api $(LOAD_BIN)/python bench.py

.PHONY: bench
bench: $(STAMP) $(LOAD_STAMP) ## Measures the service beside its peers and writes docs/performance.md (20 minutes)
	@$(BENCH)

.PHONY: soak
soak: $(STAMP) $(LOAD_STAMP) ## Runs the service for twenty minutes at 70 % of what it can do (MINUTES=)
	@cd load && PYTHONPATH=../api $(LOAD_BIN)/python soak.py --minutes '$(or $(MINUTES),20)'

.PHONY: bench-check
bench-check: $(STAMP) $(LOAD_STAMP) ## Fails when the service has lost its distance to peer (c) (2 minutes)
	@$(BENCH) --check

# A browser writes into its user's home directory.
BROWSER_HOME := $(XDG_CACHE_HOME)/home

# Two cores have room for four workers: much of a test is waiting. Its branch coverage is printed once
# the slow tests have run too.
UNIT = cd api && HOME='$(BROWSER_HOME)' $(BIN)/coverage run -m pytest -n 4 --ignore tests/faults

.PHONY: unit
unit: $(STAMP) ## Runs the service's suite on a real PostgreSQL
	@mkdir -p '$(BROWSER_HOME)'
	cd api && $(BIN)/coverage erase
	$(UNIT) -m 'not slow'

.PHONY: unit-slow
unit-slow: system-packages $(STAMP) ## The rest of the suite: browser, load, cut-over, local server; then the branch coverage
	@mkdir -p '$(BROWSER_HOME)'
	$(UNIT) -m slow
	cd api && $(BIN)/coverage combine --quiet && $(BIN)/coverage report

# Those that are not on the PATH are left out.
.PHONY: unit-pythons
unit-pythons: ## Runs the service's suite on each Python, from the oldest supported on, that the PATH has
	found=; for python in python3.11 python3.12 python3.13 python3.14; do \
	  if $$python -c '' 2>/dev/null; then found=$$python; $(MAKE) unit PYTHON=$$python; fi; \
	done; \
	test -n "$$found" || { echo "The PATH has no Python from 3.11 on" >&2; exit 1; }

.PHONY: pooler-test
pooler-test: system-packages $(STAMP) ## Runs the test suite with PgBouncer in transaction mode before the database
	@mkdir -p '$(BROWSER_HOME)'
	cd api && HOME='$(BROWSER_HOME)' $(BIN)/python -m pytest -n 2 --ignore tests/faults --pooler

FAULTS = cd api && $(BIN)/python -m pytest -s $(if $(SEED),--seed '$(SEED)') tests/faults

.PHONY: faults
faults: $(STAMP) ## Kills and cuts off servers and PostgreSQL under load: nothing may be lost (4 minutes; SEED=)
	$(FAULTS)

.PHONY: faults-long
faults-long: system-packages $(STAMP) ## The same with more of everything, and more faults; writes docs/reliability.md (20 minutes; SEED=)
	$(FAULTS) --long

.PHONY: charts
charts: $(STAMP) $(TOOLS_STAMP) clients ## Tests the charts as Helm renders them, without a cluster
	cd charts && $(BIN)/python -m pytest -n 2 -m 'not slow'

.PHONY: charts-slow
charts-slow: $(STAMP) $(TOOLS_STAMP) $(CHECKOV_STAMP) clients ## The rest of these: schemas, checkov, Helm 3
	cd charts && $(BIN)/python -m pytest -n 2 -m slow

.PHONY: dashboards
dashboards: $(STAMP) ## Writes Grafana's dashboards from charts/dashboards.py
	cd charts && $(BIN)/python dashboards.py

PROMTOOL := $(GO_PROGRAMS)/promtool@v0.316.0
# Apart from one that finds nothing in Kubernetes, as this was once built.
PROMETHEUS := $(GO_PROGRAMS)/kubernetes/prometheus@v0.316.0
# The last version whose module holds its page as built.
ALERTMANAGER := $(GO_PROGRAMS)/alertmanager@v0.31.1
AMTOOL := $(GO_PROGRAMS)/amtool@v0.31.1
OPERATOR_VERSION := v0.85.0
OPERATOR := $(GO_PROGRAMS)/operator@$(OPERATOR_VERSION)
RELOADER := $(GO_PROGRAMS)/prometheus-config-reloader@$(OPERATOR_VERSION)

.PHONY: slos
slos: $(STAMP) ## Writes the rules of the objectives from charts/payments/monitoring/slos.toml
	cd charts && $(BIN)/python slos.py

.PHONY: monitoring
monitoring: $(STAMP) $(PROMTOOL) $(AMTOOL) ## Tests the alerts and whom they reach, and that a change in any of them is noticed
	cd charts && PROMTOOL='$(PROMTOOL)' AMTOOL='$(AMTOOL)' $(BIN)/python -m pytest -n 2 tests/monitoring

.PHONY: docs
docs: $(STAMP) clients ## Tests the documents: links, names, tables, and the commands that can run here
	cd docs && $(BIN)/python -m pytest

# What puts an image archive on the cluster's nodes.
IMAGE_LOADER ?= kind load image-archive
# This machine as pods see it: PostgreSQL listens there. In kind, the bridge of its Docker network.
HOST_ADDRESS ?= 172.18.0.1
export HOST_ADDRESS

# The operator and Prometheus for the cluster, which need nothing beside themselves.
export MONITORING_IMAGE := payments-monitoring:test

.PHONY: test-cluster
test-cluster: $(STAMP) $(TOOLS_STAMP) clients $(OPERATOR) $(RELOADER) $(PROMETHEUS) ## Tests image and chart on the cluster of KUBECONFIG, and writes docs/kubernetes.md (IMAGE_LOADER=, HOST_ADDRESS=)
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag '$(MONITORING_IMAGE)' --file charts/tests/cluster/Dockerfile \
	  --build-arg OPERATOR='$(notdir $(OPERATOR))' --build-arg RELOADER='$(notdir $(RELOADER))' \
	  --build-arg PROMETHEUS='$(PROMETHEUS:$(GO_PROGRAMS)/%=%)' '$(GO_PROGRAMS)'
	$(DOCKER) save --output '$(XDG_CACHE_HOME)/image.tar' '$(IMAGE)' '$(MONITORING_IMAGE)'
	$(IMAGE_LOADER) '$(XDG_CACHE_HOME)/image.tar'
	@# In their order: the first test installs what the others use.
	cd charts && IMAGE='$(IMAGE)' $(BIN)/python -m pytest -p no:randomly -s --timeout 900 tests/cluster

# The pipeline runs these two beside credentials: they need the standard library alone, and install
# nothing; -P keeps other files of the folder from taking a module's place. A key is given in the environment rather than on the command line, where others can read it.
.PHONY: smoke
smoke: ## Checks a deployed service from outside, safe in production (URL=, KEY=)
	@PYTHONPATH=api PAYMENTS_SMOKE_KEY="$${KEY-}" $(or $(PYTHON),python3) -m pipeline.smoke "$${URL-}"

RATE ?= 50
DURATION ?= 60
P99_MS ?= 500
export RATE DURATION P99_MS

.PHONY: load
load: ## Loads a deployed service, with thresholds and reconciliation (URL=, KEY=, RATE=, DURATION=, P99_MS=)
	@LOAD_KEY="$${KEY-}" $(or $(PYTHON),python3) -P load/staging.py "$${URL-}" \
	  --rate "$$RATE" --seconds "$$DURATION" --p99-ms "$$P99_MS"

.PHONY: system-packages
system-packages: ## Installs what tests need of the system, as root on Debian; else says what is missing
	@api/laptop/system_packages

# The local name of the image; CI gives the registry's.
IMAGE ?= payments:local
# Another base than the Dockerfile's: a mirror, say.
BASE ?=
OFFICIAL_BASE = $(shell sed -n 's/^FROM \(.*\) AS official$$/\1/p' api/Dockerfile)
# linux/arm64, say, where it can be built.
PLATFORMS ?=
BUILD_FLAGS ?=
DOCKER ?= docker

# The time of the commit, not of the build: one commit makes one image.
GIT_TIME = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: image
image: ## Builds the container image (IMAGE=, BASE=, PLATFORMS=, BUILD_FLAGS=, DOCKER=)
	@$(DOCKER) version >/dev/null || { echo "make image needs Docker: see the message above" >&2; exit 1; }
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag '$(IMAGE)' $(BUILD_FLAGS) \
	  $(if $(BASE),--build-arg BASE='$(BASE)') $(if $(PLATFORMS),--platform '$(PLATFORMS)') \
	  --build-arg BASE_NAME='$(or $(BASE),$(OFFICIAL_BASE))' \
	  --build-arg VERSION="$$(git describe --tags --always --dirty 2>/dev/null || echo unknown)" \
	  --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	  --build-arg CREATED="$$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null || echo 1970-01-01T00:00:00Z)" \
	  --build-arg SOURCE_DATE_EPOCH=$(GIT_TIME) api

# Not all of the tests, say TESTS=tests/test_image.py.
TESTS ?=

.PHONY: image-test
image-test: $(if $(TESTS),,system-packages) $(STAMP) ## Tests the image from outside, on containers as restricted as a pod (IMAGE=, TESTS=)
	@mkdir -p '$(BROWSER_HOME)'
	cd api && HOME='$(BROWSER_HOME)' DOCKER='$(DOCKER)' $(BIN)/python -m pytest -n 2 --image '$(IMAGE)' $(TESTS)

.PHONY: compose-test
compose-test: $(STAMP) ## Starts compose.yaml with containers, uses it, and removes it: ports 8000, 9090, 3000 (DOCKER=)
	cd api && DOCKER='$(DOCKER)' $(BIN)/python -m pytest tests/compose

.PHONY: image-lint
image-lint: $(STAMP) ## Checks the Dockerfile (hadolint)
	cd api && $(BIN)/hadolint Dockerfile

.PHONY: infra-test
infra-test: $(TOOLS_STAMP) ## Tests Terraform without an account: validity, promises, policies, faults, cost
	cd terraform/testkit && $(TOOLS_BIN)/python -m pytest -n 2 -m 'not slow'

.PHONY: infra-slow
infra-slow: $(TOOLS_STAMP) $(CHECKOV_STAMP) $(IAM_STAMP) ## The rest of these: planted faults, simulated IAM (needs Node)
	cd terraform/testkit && $(TOOLS_BIN)/python -m pytest -n 2 -m slow

# A hash for each machine that runs Terraform: the pipeline's and those of developers.
.PHONY: provider-locks
provider-locks: ## Writes which providers Terraform may install, by hash (TERRAFORM=)
	@for root in bootstrap environment platform; do \
	  $(or $(TERRAFORM),terraform) -chdir=terraform/$$root providers lock -platform=linux_amd64 \
	    -platform=linux_arm64 -platform=darwin_amd64 -platform=darwin_arm64; \
	done

.PHONY: cost
cost: $(TOOLS_STAMP) ## Writes docs/cost.md from simulated plans; fails above a budget
	@cd terraform/testkit && PYTHONPATH=.. $(TOOLS_BIN)/python -m testkit.cost

# What the pipeline calls, beside the verbs above.
ACTIONLINT := $(GO_PROGRAMS)/actionlint@v1.7.12
OASDIFF := $(GO_PROGRAMS)/oasdiff@v1.36.0
TRIVY := $(GO_PROGRAMS)/trivy@v0.74.0
$(ACTIONLINT):
	@pipeline/go-install github.com/rhysd/actionlint/cmd/actionlint $@
$(OASDIFF):
	@pipeline/go-install github.com/oasdiff/oasdiff $@
# Trivy reads JSON with what Go 1.26 still calls an experiment.
$(TRIVY):
	@GOEXPERIMENT=jsonv2 pipeline/go-install github.com/aquasecurity/trivy/cmd/trivy $@
# Most of it finds targets in clouds: of that with Kubernetes alone.
$(PROMTOOL) $(PROMETHEUS):
	@TAGS=remove_all_sd,enable_kubernetes_sd pipeline/go-install github.com/prometheus/prometheus/cmd/$(firstword $(subst @, ,$(@F))) $@
$(ALERTMANAGER) $(AMTOOL):
	@pipeline/go-install github.com/prometheus/alertmanager/cmd/$(firstword $(subst @, ,$(@F))) $@
$(OPERATOR) $(RELOADER):
	@pipeline/go-install github.com/prometheus-operator/prometheus-operator/cmd/$(firstword $(subst @, ,$(@F))) $@

.PHONY: drill
drill: $(STAMP) $(LOAD_STAMP) $(PROMETHEUS) $(ALERTMANAGER) ## Breaks the service in front of a real Prometheus: each fault must fire its alert (MINUTES=)
	@cd load && PYTHONPATH=../api PROMETHEUS='$(PROMETHEUS)' ALERTMANAGER='$(ALERTMANAGER)' \
	  $(LOAD_BIN)/python -m drill --minutes '$(or $(MINUTES),20)'

.PHONY: workflows
workflows: $(STAMP) $(PIPELINE_STAMP) $(ACTIONLINT) $(OASDIFF) clients ## Checks the workflows (actionlint, zizmor) and tests what they call
	$(ACTIONLINT) -shellcheck= -pyflakes=
	$(PIPELINE_BIN)/zizmor --offline --pedantic --quiet .github
	cd pipeline && OASDIFF='$(OASDIFF)' $(BIN)/python -m pytest -n 2

# The last release, or the commit before this one while there is none. FROM is exported above, and so
# empty where nobody gives it.
EARLIER = "$${FROM:-$$(pipeline/previous)}"

.PHONY: contract
contract: $(OASDIFF) ## Fails when the contract breaks clients of the last release (FROM=)
	@OASDIFF='$(OASDIFF)' pipeline/contract $(EARLIER)

.PHONY: compat
compat: $(STAMP) ## Runs the last release's tests on this schema (FROM=)
	@pipeline/compat $(EARLIER)

.PHONY: reproducible
reproducible: ## Builds the image twice and compares what is in it (BASE=, BUILD_FLAGS=, DOCKER=)
	@DOCKER='$(DOCKER)' BASE='$(BASE)' BUILD_FLAGS='$(BUILD_FLAGS)' python3 -m pipeline.reproducible

.PHONY: image-archive
image-archive: ## Writes the image to .cache/image.tar (IMAGE=, DOCKER=)
	@mkdir -p .cache
	$(DOCKER) save --output .cache/image.tar '$(IMAGE)'

.PHONY: sbom
sbom: $(PIPELINE_STAMP) image-archive ## Writes what is in the image to .cache/sbom.spdx.json (IMAGE=, DOCKER=)
	@DOCKER='$(DOCKER)' SYFT=$(PIPELINE_BIN)/syft pipeline/sbom '$(IMAGE)'

.PHONY: scan
scan: $(TRIVY) ## Fails on a known, mended and serious weakness in the image (IMAGE=)
	$(TRIVY) image --exit-code 1 --severity HIGH,CRITICAL --ignore-unfixed --no-progress \
	  --ignorefile pipeline/trivyignore.yaml '$(IMAGE)'

.PHONY: scan-config
scan-config: $(TRIVY) ## Fails on a serious mistake in Dockerfile, charts or Terraform (Trivy)
	@TRIVY='$(TRIVY)' pipeline/scan-config

.PHONY: scan-cluster
scan-cluster: $(TRIVY) ## Fails on a serious mistake in what runs in an environment (ENVIRONMENT=)
	$(TRIVY) kubernetes --exit-code 1 --severity HIGH,CRITICAL --report summary --scanners misconfig \
	  --disable-node-collector --include-namespaces 'payments-$(ENVIRONMENT)'

# Helm and kubectl by hash, and nothing else: what runs beside production's credentials is little.
CLIENTS := .cache/clients
$(CLIENTS)/helm: charts/tests/clients.lock charts/tests/unpack_clients.py
	@pipeline/install-clients $(CLIENTS)
HELM ?= $(CURDIR)/$(CLIENTS)/helm
KUBECTL ?= $(CURDIR)/$(CLIENTS)/kubectl
RELEASE = HELM='$(HELM)' KUBECTL='$(KUBECTL)' python3 -m

.PHONY: clients
clients: $(CLIENTS)/helm ## Installs helm and kubectl into .cache/clients, hashes checked

# DRY_RUN=1 lets these say what they would do.
.PHONY: publish
publish: $(CLIENTS)/helm ## Pushes image and chart of this commit (REGISTRY=, DRY_RUN=)
	@HELM='$(HELM)' pipeline/publish

.PHONY: verify
verify: ## Refuses image and chart that the build on main did not make (IMAGE=, CHART=, COMMIT=, DRY_RUN=)
	@IMAGE='$(IMAGE)' pipeline/verify

.PHONY: kubeconfig
kubeconfig: ## Lets kubectl and helm reach the cluster of an environment (ENVIRONMENT=, DRY_RUN=)
	@python3 -m pipeline.deploy kubeconfig "$${ENVIRONMENT-}"

.PHONY: deploy
deploy: $(CLIENTS)/helm ## Brings image and chart, by digest, to an environment (ENVIRONMENT=, IMAGE=, CHART=, COMMIT=, DRY_RUN=)
	@IMAGE='$(IMAGE)' $(RELEASE) pipeline.deploy deploy "$${ENVIRONMENT-}"

.PHONY: rollback
rollback: $(CLIENTS)/helm ## Goes back to the release before, or to DIGEST= (ENVIRONMENT=, DRY_RUN=)
	@$(RELEASE) pipeline.deploy rollback "$${ENVIRONMENT-}"

.PHONY: history
history: $(CLIENTS)/helm ## Lists what ran in an environment, newest first (ENVIRONMENT=)
	@$(RELEASE) pipeline.deploy history "$${ENVIRONMENT-}"

.PHONY: helm-test
helm-test: $(CLIENTS)/helm ## Runs the chart's test in an environment (ENVIRONMENT=, DRY_RUN=)
	@$(RELEASE) pipeline.deploy test "$${ENVIRONMENT-}"

.PHONY: manage
manage: $(CLIENTS)/helm ## Runs `payments COMMAND` in an environment as the schema's owner (ENVIRONMENT=, COMMAND=, FILE=)
	@$(RELEASE) pipeline.manage "$${ENVIRONMENT-}" "$${COMMAND-}"

.PHONY: burn-rate
burn-rate: $(CLIENTS)/helm ## Watches an environment after a release; fails when requests fail (ENVIRONMENT=, MINUTES=)
	@$(RELEASE) pipeline.burn_rate "$${ENVIRONMENT-}" '$(or $(MINUTES),10)'

.PHONY: release
release: ## Tags what production runs, and publishes its notes (IMAGE=, CHART=, COMMIT=, DRY_RUN=)
	@IMAGE='$(IMAGE)' pipeline/tag
	@python3 -m pipeline.release publish

.PHONY: release-outputs
release-outputs: ## Says the version, and whether this commit is a release
	@python3 -m pipeline.release outputs

# What a schedule runs, it also keeps for the issue that says what went wrong.
.PHONY: said
said: ## Runs verbs, and keeps what they say in .cache/said.txt (VERBS=)
	@mkdir -p .cache
	@$(MAKE) $(VERBS) 2>&1 | tee .cache/said.txt

.PHONY: lock-check
lock-check: lock ## Fails when `make lock` changes what a lock file names
	@! git diff --unified=0 -- '*.lock' | grep '^[+-][a-z].*=='

.PHONY: scan-released
scan-released: ## Scans the image of the last release in the registry (REGISTRY=)
	@version=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' --exclude '*/*' 2>/dev/null) || { echo "There is no release yet"; exit 0; }; \
	  case $$version in *[!v0-9.]*) echo "$$version is no release: its name has more than v, digits and dots" >&2; exit 1 ;; esac; \
	  $(MAKE) scan IMAGE="$${REGISTRY:?is not set}/payments:$$version"

PLACE ?=
TEXT ?= .cache/plan.txt

.PHONY: plan
plan: ## Plans a place of Terraform without a lock (PLACE=, TEXT=)
	@mkdir -p .cache
	@pipeline/plan '$(PLACE)' '$(TEXT)'

.PHONY: apply
apply: ## Applies the saved plan of a place, and no other (PLACE=)
	@terraform/run '$(PLACE)' apply

.PHONY: cost-difference
cost-difference: ## Writes what a change costs a month to .cache/cost.txt (FROM=)
	@mkdir -p .cache
	@python3 -m pipeline.cost_difference $(EARLIER) >.cache/cost.txt.new
	@mv .cache/cost.txt.new .cache/cost.txt && cat .cache/cost.txt

.PHONY: comment
comment: ## Says the text of a file on a pull request, once a title (TITLE=, TEXT=, PULL_REQUEST=, DRY_RUN=)
	@python3 -m pipeline.github comment "$${TITLE-}" '$(TEXT)'

.PHONY: issue
issue: ## Opens an issue with the text of a file, once a title (TITLE=, TEXT=, DRY_RUN=)
	@python3 -m pipeline.github issue "$${TITLE-}" '$(TEXT)'

UV_OPTIONS := --quiet --upgrade --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-header --system-certs
UV_COMPILE := $(BIN)/uv pip compile $(UV_OPTIONS)

.PHONY: lock
lock: $(STAMP) ## Resolves the dependencies anew and writes all lock files
	cd api && $(UV_COMPILE) --output-file requirements.lock pyproject.toml
	cd api && $(UV_COMPILE) --extra dev -c requirements.lock --output-file requirements-dev.lock pyproject.toml
	cd api && $(UV_COMPILE) -c requirements-dev.lock --output-file ../load/requirements.lock \
	  pyproject.toml ../load/requirements.in
	cd api/tests/clients && $(UV_COMPILE) --output-file requirements.lock requirements.in
	cd pipeline && $(UV_COMPILE) --output-file tools.lock tools.in
	cd pipeline && $(UV_COMPILE) --output-file checkov.lock checkov.in
	cd pipeline && $(UV_COMPILE) --output-file requirements.lock requirements.in
	cd terraform/testkit && $(UV_COMPILE) --no-deps --output-file requirements-bare.lock requirements-bare.in

.PHONY: clean
clean: ## Removes what can be made again; .data, with the database, stays
	rm -rf .venv .venv-load .venv-tools .venv-checkov .venv-pipeline .venv-iam .venv-clients .venv-generators .install.lock .cache {api,charts,docs,load,pipeline,terraform/testkit}/.mypy_cache {api,charts,docs,pipeline}/.pytest_cache {api,charts,docs,load,pipeline,terraform/testkit}/.ruff_cache api/.hypothesis api/.coverage*
