# `make help` lists the targets. Building and the demo need Go alone. The Debian packages of others are installed where
# they are missing: those of test/packages.txt for `make test`, tool-packages.txt for what is generated and linted, both
# and all-packages.txt for `make test-all`, and the lists of kernels, bench, fresh, guide and packaging for theirs.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
BINARY  ?= bin/replypath

# The latest tag, or what CHANGELOG.md is about where there is none.
CHANGELOG_VERSION = $(shell sed -n 's/^## \[\{0,1\}\([0-9][^] ]*\).*/\1/p' CHANGELOG.md 2>/dev/null | head -n 1)
VERSION ?= $(or $(shell git describe --tags --dirty --match 'v[0-9]*' 2>/dev/null | sed 's/^v//'),$(CHANGELOG_VERSION))

# What `replypath version`, bench and soak say that they are about. As long in every clone.
COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)

# What is made twice from a commit is the same: it has the time of the commit.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

# What checks the workflows of .github.
ACTIONLINT ?= $(GO) tool -modfile=.github/actionlint.mod actionlint

# Where packages are made, and by what.
PACKAGES ?= build/packages
NFPM     ?= env -u GOARCH $(GO) tool -modfile=packaging/nfpm.mod nfpm
SBOM     ?= env -u GOARCH $(GO) tool -modfile=packaging/sbom.mod cyclonedx-gomod

# Who answers for the packages: whoever publishes them says so. Reports go the way that SECURITY.md says.
MAINTAINER ?= The replypath authors <noreply@github.com>

# What prints the completions: the binary, unless it is for another architecture.
COMPLETER ?= $(BINARY)

# Where the container image and a release are made, and what for.
IMAGE         ?= build/replypath-$(CHANGELOG_VERSION).oci.tar
RELEASE       ?= build/release
ARCHITECTURES ?= amd64 arm64

# What reads the documents, and those that it reads: each directory with all that is below it.
VALE  ?= CGO_ENABLED=1 $(GO) tool -modfile=test/documents/vale.mod vale
PROSE ?= README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md $(wildcard docs/guide docs/design docs/FLEET.md docs/GLOSSARY.md docs/METRICS.md docs/ARCHITECTURE.md)

# What is installed where there is no configuration.
SAMPLE_CONFIG ?= packaging/replypath.yaml

# The kernels of test-kernels, and of its suites those that are to be run: all, where none is named. SHORT=1 leaves out
# what differs little from the rest, PARALLEL=2 runs two virtual machines at once.
KERNELS ?= 5.10 6.1 6.12 7.2
SUITES  ?=
SHORT   ?=
PARALLEL ?= 1

# Of bench, those that are to be measured: all, where none is named.
WORKLOADS  ?=
CONTENDERS ?=

# One binary is built and tested. The go command shares what it has compiled between `make build` and the tests.
TESTED := REPLYPATH_BINARY=$(CURDIR)/$(BINARY)
LOGS   := build/tests
RUN     = $(TESTED) $(GO) run ./test/run -logs $(LOGS)
ABOUT   = rm -rf $(LOGS); mkdir -p $(LOGS); echo "tests of commit $(COMMIT) on Linux $$(uname -r), $$(date -u +%F)" >$(LOGS)/about.log
# What renders and checks the Helm chart is a module of its own.
MODULES := deploy/helm

# Packets that the datapath and the model of it have to agree about.
FUZZ_PACKETS ?= 1000000
FUZZ_TIME    ?= 10m
FUZZ_TARGET  ?= FuzzDatapath

# How long the daemon runs under load and changes.
SOAK_TIME ?= 30m

export CGO_ENABLED = 0
export GOFLAGS := -trimpath $(GOFLAGS)

.DEFAULT_GOAL := build
.PHONY: build demo test test-all test-long test-fresh evidence test-unit test-bpf test-one fuzz test-race test-kernels test-kubernetes bench bench-bpf bench-check bench-page bench-tables soak generate verify-generated lint lint-docs docs-pictures vet staticcheck gofmt licence workflows install deb rpm image release packages all-packages tool-packages root help

build: ## make bin/replypath, one static binary
	$(GO) build -buildvcs=false -ldflags '-s -w -X main.commit=$(COMMIT) -X main.version=$(or $(VERSION),devel)' -o $(BINARY) ./cmd/replypath

demo: build root ## show replies leaving by the wrong interface, and mended
	$(GO) build -buildvcs=false -ldflags '-s -w' -o bin/replypath-demo ./cmd/replypath-demo
	bin/replypath-demo -replypath $(BINARY)

test: build root packages ## show each promise once, run unit tests and every branch of the programs, in five minutes (build/tests)
	@$(ABOUT)
	$(RUN) -quick

test-all: build root all-packages ## run all tests, in 25 minutes; REST=1 leaves out what `make test` has shown before it
	@$(if $(REST),,$(ABOUT))
	$(RUN) $(if $(REST),-rest)

test-long: build root all-packages ## run what repeats for long: restarts by the hundred, all combinations, both architectures, a long soak
	$(TESTED) REPLYPATH_TEST_LONG=1 REPLYPATH_TEST_RESTARTS=100 $(GO) test -count=1 -v -p 1 -timeout 2h \
		./test/restarts ./test/fleet ./test/faults ./test/floods ./loader ./packaging
	$(MAKE) --no-print-directory soak

evidence: ## make build/evidence.md from what test-all has printed
	$(GO) run ./test/evidence

# Those that neither need root nor make a namespace.
UNIT := $(addprefix ./,cmd/replypath cmd/replypath/cli cmd/replypath/daemon \
	cmd/replypath/output cmd/replypath/show cmd/replypath/top loader/config loader/explain loader/fallback \
	loader/flows loader/kernel loader/top loader/trace metrics/... test/bench/contender test/bench/load test/bench/report \
	test/documents test/evidence test/guide test/kernels test/structure)

test-unit: ## run the tests that need no root, in half a minute once they are built
	$(GO) test -short $(UNIT)

test-bpf: root ## run the programs on packets, with a short fuzz, in a minute (BPF_PROG_TEST_RUN)
	$(GO) test -short ./bpf/...

test-one: build root all-packages ## run one test wherever it is (T=TestName)
	@test -n "$(T)" && in=$$(git grep -l 'func $(T)(' -- '*_test.go' | xargs -r -n 1 dirname | sort -u | sed 's|^|./|') && test -n "$$in" || \
		{ echo 'there is no test "$(T)": make test-one T=TestName' >&2; exit 1; }; \
	$(TESTED) $(GO) test -count=1 -timeout 20m -v -run '^$(T)$$' $$in

# Inputs are minimized ten times only: what they cover differs from run to run.
fuzz: root ## hold a million packets against the model, then look for others that it decides differently about (FUZZ_PACKETS, FUZZ_TIME)
	REPLYPATH_FUZZ_PACKETS=$(FUZZ_PACKETS) $(GO) test ./bpf -count=1 -run '^TestModel' -timeout 1h
	$(GO) test ./bpf -run '^$$' -fuzz '^$(FUZZ_TARGET)$$' -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x

test-race: root all-packages ## run all tests with the race detector
	CGO_ENABLED=1 $(GO) test -race -p 1 -count=1 -timeout 1h ./...

test-fresh: root ## follow README in a new root directory of Debian 12: make demo, make test
	@test/install-packages.sh test/fresh/packages.txt
	GO="$(GO)" test/fresh/run

test-kernels: all-packages ## run tests on other kernels (KERNELS="5.10 6.1"), in virtual machines
	@test/install-packages.sh test/kernels/packages.txt
	$(GO) build -o build/test-kernels ./test/kernels
	exec build/test-kernels -suites "$(SUITES)" $(if $(SHORT),-short) -parallel $(PARALLEL) $(KERNELS)

# To compile a cluster takes eight minutes the first time, on two cores.
test-kubernetes: root all-packages ## run the commands of docs/guide/kubernetes.md in a cluster of one node
	@test/install-packages.sh test/guide/cluster-packages.txt
	GO="$(GO)" test/guide/cluster build/cluster
	$(MAKE) --no-print-directory image IMAGE=build/cluster/replypath.tar ARCHITECTURES=$$($(GO) env GOARCH)
	REPLYPATH_TEST_PATIENCE=3 REPLYPATH_CLUSTER=$(CURDIR)/build/cluster $(GO) test -count=1 -v -run '^TestPages/docs/guide/kubernetes.md$$' ./test/guide

# QUICK=1 takes three minutes on two cores, a full run about an hour. WORKLOADS and CONTENDERS name some of them.
bench: build root packages ## measure replypath beside a static route, ip rule and connection marks (build/bench), QUICK=1 in short
	@test/install-packages.sh test/bench/packages.txt
	@mkdir -p build/bench
	@rm -f build/bench/bpf.json
	-$(GO) run ./bpf/internal/bench -json build/bench/bpf.json $(if $(QUICK),-rounds 3 -repeat 100000,-crowd)
	$(GO) build -o build/benchmark ./test/bench
	REPLYPATH_BINARY=bin/replypath exec build/benchmark $(if $(QUICK),-quick) -commit "$(COMMIT)" -workloads "$(WORKLOADS)" -contenders "$(CONTENDERS)"

bench-page: ## make docs/BENCHMARKS.md from what bench has measured
	$(GO) run ./test/bench -page docs/BENCHMARKS.md

bench-check: root ## hold the programs' instructions and nanoseconds against recorded bounds, on machines that are slower as well
	$(GO) run ./bpf/internal/bench -scaled -rounds 28 -repeat 50000

bench-bpf: root ## measure the programs next to an empty one (build/bench/bpf.json), CROWD=1 also with a million flows; fails where a bound is exceeded
	@mkdir -p build/bench
	$(GO) run ./bpf/internal/bench -json build/bench/bpf.json $(if $(CROWD),-crowd)

soak: root all-packages ## run under load while everything changes, with the race detector, for SOAK_TIME
	CGO_ENABLED=1 $(GO) build -race -buildvcs=false -o build/replypath-race ./cmd/replypath
	REPLYPATH_BINARY=$(CURDIR)/build/replypath-race REPLYPATH_SOAK_TIME=$(SOAK_TIME) \
		$(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./test/soak

bench-tables: build root packages ## measure the daemon beside large routing tables that change, and interfaces that come and go
	REPLYPATH_BINARY=$(CURDIR)/bin/replypath REPLYPATH_BIG_TABLES=1 $(GO) test -count=1 -v -timeout 20m ./test/bench/bigtables

generate: tool-packages ## compile the BPF programs; make the metrics reference, dashboard, man pages and manifests of Kubernetes
	$(GO) generate ./...

verify-generated: tool-packages ## check that the generated files are what their sources make
	test/verify-generated.sh

lint: vet staticcheck gofmt licence workflows ## check the Go code and the workflows

# python3-rich and python3-pyte, which nothing else needs, are in test/guide/packages.txt.
docs-pictures: root all-packages ## draw the terminals of demo, status, top and doctor, and the dashboard, for the documents
	@test/install-packages.sh test/guide/packages.txt
	@rm -rf build/pictures && mkdir -p build/pictures
	REPLYPATH_PICTURES=$(CURDIR)/build/pictures $(GO) test -count=1 -run '^TestPictures$$' ./test/guide
	/usr/bin/python3 test/guide/pictures.py build/pictures docs/guide/pictures
	REPLYPATH_PICTURES=$(CURDIR)/build/pictures $(GO) test -count=1 -run '^TestDashboardPicture$$' ./test/software
	/usr/bin/python3 test/software/dashboard.py docs/grafana-dashboard.json build/pictures/dashboard.json docs/guide/pictures/dashboard.svg

# Help, man pages and messages are read as Markdown.
lint-docs: tool-packages ## check the documents: links, commands, keys, metrics, sizes and prose
	@rm -rf build/prose && mkdir -p build/prose
	failed=; \
	REPLYPATH_PROSE=$(CURDIR)/build/prose $(GO) test -count=1 ./test/documents || failed=1; \
	REPLYPATH_PROSE=$(CURDIR)/build/prose $(GO) test -count=1 -run '^Test(Documented|Manual)' ./cmd/replypath || failed=1; \
	$(VALE) --config test/documents/vale.ini --glob '*.md' --output line $(PROSE) build/prose || failed=1; \
	test -z "$$failed"

vet:
	$(GO) vet ./...
	for module in $(MODULES); do $(GO) -C $$module vet ./... || exit 1; done

staticcheck:
	$(GO) tool staticcheck ./...
	for module in $(MODULES); do $(GO) -C $$module tool -modfile=$(CURDIR)/go.mod staticcheck ./... || exit 1; done

gofmt:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	test -z "$$unformatted" || { echo "gofmt would change:" $$unformatted >&2; exit 1; }

# Generated files count as licensed: bpf2go writes no such line.
licence:
	@$(GO) tool addlicense -check -s=only -l apache $$(git ls-files '*.go') || \
		{ echo "these lack their SPDX line: go tool addlicense -c '' -s=only -l apache FILE" >&2; exit 1; }

# Without what it looks for on this machine, so that it says the same everywhere.
workflows:
	$(ACTIONLINT) -shellcheck= -pyflakes=

install: build ## install under DESTDIR and PREFIX, with man pages, completions, systemd unit and a sample configuration
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/replypath
	install -d $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 0644 packaging/man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 0644 packaging/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(COMPLETER) completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/replypath
	$(COMPLETER) completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_replypath
	$(COMPLETER) completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/replypath.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' packaging/replypath.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/replypath.service
	test -e $(DESTDIR)/etc/replypath/replypath.yaml || \
		install -D -m 0644 $(SAMPLE_CONFIG) $(DESTDIR)/etc/replypath/replypath.yaml

# What is published has the version of CHANGELOG.md, whatever has been committed since, and the time of the last commit.
deb rpm image release: VERSION = $(CHANGELOG_VERSION)
deb rpm image release: export SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)
deb rpm image release: export MAINTAINER := $(MAINTAINER)
deb rpm: ## make a Debian or an RPM package in build/packages; PACKAGES=elsewhere, VERSION=another
	rm -rf $(PACKAGES)/$@
	$(MAKE) --no-print-directory install VERSION=$(VERSION) DESTDIR=$(PACKAGES)/$@ PREFIX=/usr BINARY=$(BINARY)
	gzip -9n $(PACKAGES)/$@/usr/share/man/man*/*
	GO="$(GO)" packaging/documents $(PACKAGES)/$@/usr/share/doc/replypath
	VERSION=$(VERSION) ARCHITECTURE=$$($(GO) env GOARCH) PACKAGE_ROOT=$(PACKAGES)/$@ packaging/package $@ $(NFPM)

image: root ## make a container image as an OCI archive in build, for amd64 and arm64 (ARCHITECTURES, IMAGE)
	@test/install-packages.sh packaging/packages.txt
	rm -rf $(IMAGE).context
	for architecture in $(ARCHITECTURES); do \
		export GOARCH=$$architecture; to=$(IMAGE).context/$$architecture/usr; \
		$(MAKE) --no-print-directory build VERSION=$(VERSION) BINARY=$$to/bin/replypath && \
		install -D -m 0644 packaging/copyright $$to/share/doc/replypath/copyright && \
		GO="$(GO)" packaging/third-party-licenses ./cmd/replypath >$$to/share/doc/replypath/third-party-licenses || exit 1; \
	done
	VERSION=$(VERSION) COMMIT=$(COMMIT) packaging/image $(IMAGE).context $(IMAGE) $(ARCHITECTURES)
	rm -r $(IMAGE).context

# Signing is left to those who have the key: apt/dists/stable/Release, dnf/repodata/repomd.xml and SHA256SUMS.
release: build root ## make all that is published, in build/release: binaries, packages, their repositories, image, SBOM, checksums
	@test/install-packages.sh packaging/packages.txt
	rm -rf $(RELEASE)
	for architecture in $(ARCHITECTURES); do \
		$(MAKE) --no-print-directory deb rpm GOARCH=$$architecture VERSION=$(VERSION) COMPLETER=$(BINARY) \
			BINARY=$(RELEASE)/replypath-$(VERSION)-linux-$$architecture PACKAGES=$(RELEASE)/packages/$$architecture && \
		$(SBOM) bin -json -noserial -notimestamp -std -version v$(VERSION) \
			-output $(RELEASE)/replypath-$(VERSION)-linux-$$architecture.cdx.json $(RELEASE)/replypath-$(VERSION)-linux-$$architecture || exit 1; \
	done
	$(MAKE) --no-print-directory image VERSION=$(VERSION) IMAGE=$(RELEASE)/replypath-$(VERSION).oci.tar
	packaging/repositories $(RELEASE) $(ARCHITECTURES)
	cd $(RELEASE) && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS

packages:
	@test/install-packages.sh

all-packages: packages tool-packages
	@test/install-packages.sh test/all-packages.txt

tool-packages:
	@test/install-packages.sh test/tool-packages.txt

root:
	@test "$$(id -u)" = 0 || { echo "make: this makes network namespaces: run it as root" >&2; exit 1; }

help: ## list the targets
	@sed -n 's/^\([a-z -]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18
