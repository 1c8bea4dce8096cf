# make help lists the targets.

PREFIX  ?= $(HOME)/.local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= go
FUZZTIME ?= 10s
SOAK    ?= 1h

export CGO_ENABLED = 0
goflags = -trimpath -buildvcs=false -ldflags '-s -w -X banger/internal/version.Version=$(VERSION)'
bundle = $(GO) run -trimpath -buildvcs=false ./cmd/banger-bundle

# A program built with -race sleeps for a second at its exit (GORACE ends that), and
# checks each pointer of SQLite, which was translated from C (race_quick ends that).
race_quick = -gcflags=modernc.org/sqlite/lib=-d=checkptr=0

# The agent is in every VM's initrd, so it has to stay small.
agent_max = 6291456

.DEFAULT_GOAL = build
.PHONY: help try build runtime runtime-bundle rootfs runtime-package test unit vmtest torture openssh bench soak fuzz mutate compare lab lab-short lab-bench lab-compare lab-host lab-shell install

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

try: ## from a fresh clone to a running VM: check the host, build, give a tour
	@sh scripts/try.sh

build: ## build banger, bangerd and banger-agent in this directory
	$(GO) build $(goflags) -o . ./cmd/banger ./cmd/bangerd ./cmd/banger-agent
	@size=$$(stat -c %s banger-agent); test $$size -lt $(agent_max) || \
		{ echo "banger-agent has $$size bytes; the limit is $(agent_max)" >&2; exit 1; }

runtime: ## build ./runtime, a kernel set and the default image, from Debian's packages
	$(bundle) build --dir ./runtime

runtime-bundle: runtime ## the same with Firecracker, which runtime-bundle.toml pins
	$(bundle) build --dir ./runtime --only firecracker

rootfs: ## rebuild ./runtime/rootfs-docker.ext4 from packages.apt
	$(bundle) build --dir ./runtime --only image --force

runtime-package: ## pack ./runtime as dist/banger-runtime.tar.gz and print its SHA-256
	$(bundle) package --dir ./runtime --out dist/banger-runtime.tar.gz

test: unit vmtest ## run all tests that this host can run

unit: ## vet, check the format, run the unit tests: no root, no VM, no network
	@command -v $${CC:-gcc} >/dev/null || \
		{ echo "the race detector needs a C compiler; fix: sudo apt-get install -y gcc libc6-dev" >&2; exit 1; }
	@test -z "$$(gofmt -l cmd internal *.go)" || { gofmt -d cmd internal *.go; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags vm ./internal/lab ./internal/vmm/qemu ./internal/vmm/firecracker ./internal/build/kernel
	@CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 sh scripts/test.sh unit $(GO) test -race $(race_quick) ./...

vmtest: build runtime ## run the tests that boot VMs, on QEMU
	@sh scripts/test.sh driver $(GO) test -count=1 -timeout 10m -tags vm -run 'TestContract|TestReconnect|TestDaemonKilled|TestAsPlainUser|TestBuildFromDebian' ./internal/vmm/qemu ./internal/build/kernel
	@sh scripts/test.sh confined $(GO) test -count=1 -timeout 5m -run 'TestConfine|TestStalled' ./internal/network/helper
	@VERBOSE=1 sh scripts/test.sh machines $(GO) test -count=1 -timeout 50m -parallel 3 -tags vm ./internal/lab

torture: build runtime ## kill what serves the VMs' network at random moments, for half an hour; as root
	@BANGER_TEST_ROUNDS=$${ROUNDS:-200} VERBOSE=1 sh scripts/test.sh kills $(GO) test -count=1 -timeout 60m -run TestNetworkOutlivesKills ./internal/lab/script
	@BANGER_TEST_ROUNDS=$${GUEST_ROUNDS:-10} VERBOSE=1 sh scripts/test.sh kills-of-guests $(GO) test -count=1 -timeout 60m -tags vm -run TestNetworkKilled ./internal/lab

openssh: build runtime ## run OpenSSH's own tests of a server against a VM; OPENSSH is its unpacked source package (docs/sessions.md)
	@test -d "$(OPENSSH)/regress" || { echo "OPENSSH has no directory regress; fix: apt-get source openssh, then make openssh OPENSSH=DIR" >&2; exit 1; }
	@BANGER_TEST_OPENSSH="$(abspath $(OPENSSH))" VERBOSE=1 sh scripts/test.sh openssh $(GO) test -count=1 -timeout 60m -tags vm -run 'TestOpenSSHRegressions$$' ./internal/lab

bench: build runtime ## measure create, exec, list, stop, memory, disks and network (docs/benchmarks.md)
	$(GO) test -count=1 -timeout 25m -tags vm -run '^$$' -bench . -benchtime 1x ./internal/lab
	$(GO) test -count=1 -p 1 -timeout 15m -run '^$$' -bench 'Egress|Bridge|Forward|Attach' -benchtime 1x ./internal/network/...

compare: build runtime ## compare with what else runs VMs here (docs/benchmarks.md); ROUNDS=4, RIVALS= picks some
	@scripts/compare/compare.sh --rounds $${ROUNDS:-4} $(RIVALS)

soak: ## load the network of a plain user for SOAK (1h) and print the helper's memory
	BANGER_TEST_SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -run '^TestSoak$$' -v ./internal/network/helper

lab: lab-program runtime-bundle ## run the tests that boot VMs, on Firecracker in an emulated host (docs/lab.md)
	@VERBOSE=1 sh scripts/test.sh lab dist/banger-lab test

lab-short: lab-program runtime-bundle ## run a part of make lab: the driver's contract and a few VMs
	@VERBOSE=1 sh scripts/test.sh lab dist/banger-lab test --short

lab-bench: lab-program runtime-bundle ## measure create, start and boot on Firecracker, in the emulated host
	dist/banger-lab bench

lab-compare: lab-program runtime-bundle ## compare with what else runs VMs, in the emulated host with KVM
	dist/banger-lab compare --rounds $${ROUNDS:-4} $(RIVALS)

lab-host: lab-program runtime-bundle ## build the disks of the emulated host only
	dist/banger-lab build

lab-shell: lab-program runtime-bundle ## open a shell in the emulated host, with KVM, and banger in /lab
	dist/banger-lab shell

.PHONY: lab-program
lab-program:
	@$(GO) build -trimpath -buildvcs=false -o dist/ ./cmd/banger-lab

fuzz: ## run every fuzz target for FUZZTIME (10s) each
	@GO=$(GO) sh scripts/fuzz.sh $(FUZZTIME)

mutate: ## break each guard in scripts/mutations and name the test that notices; WORD= picks some
	@GO=$(GO) sh scripts/mutate.sh $(WORD)

install: build ## install banger, the runtime and completion into PREFIX (~/.local)
	@sh scripts/install.sh "$(PREFIX)"
