# Everything from nothing: `make run` shows the shop under governance, `make test` proves the parts.
# Only `make peers` asks for root. Nothing is installed outside .venv, shared/core/target and build/.

PROFILE ?= dev
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
CORE    := shared/core
RUST    := $(shell find $(CORE) -path $(CORE)/target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print 2>/dev/null)
NATIVE  := $(CORE)/python/pannier/_native.abi3.so
PEERS   := nginx-light apache2-bin bind9-dnsutils dnsmasq-base etcd-server haproxy iproute2 nftables openssl strace prometheus valgrind varnish libzookeeper-java slowhttptest $(if $(shell command -v node),,nodejs) $(if $(shell command -v java),,default-jre-headless)

.PHONY: run test test-rust proofs sanitize test-python lint peers bench bench-start bench-plane bench-fleet bench-central faults soak fuzz docs build clean

# HOG=1: beside hogs, on a host that leans on a Central. HOSTS=2: on two hosts, which are network namespaces, with two pilots and an etcd of three.
run: build
	$(BIN)/python examples/shop/$(if $(HOSTS),two_hosts.py,$(if $(HOG),hog.py,run.py) --profile $(PROFILE)) $(if $(FOR),--for $(FOR))

test: test-rust test-python

test-rust: build
	cd $(CORE) && cargo test --quiet --release --workspace
	$(MAKE) --no-print-directory proofs PANNIER_PROOFS=short

# The protocols of shared memory, every order of their steps: docs/policy-plane.md. `make test` has the short form.
proofs: | toolchain
	cd $(CORE) && RUSTFLAGS="--cfg loom" PANNIER_PROOFS=$(or $(PANNIER_PROOFS),long) \
	  cargo test --quiet --profile proofs -p pannier-table --lib --target-dir target/proofs proofs::

# The tests of shared memory between threads under ThreadSanitizer, or what the toolchain has of the kind.
sanitize: | toolchain
	$(CORE)/table/sanitize

# Those in APART have nothing in common, no port and no core, so they run beside one another.
APART := $(addprefix tests/,model profiles proxy/central shared sidecars structure supervisor)

test-python: build
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile $(APART)
	$(BIN)/python -m pytest -q tests $(addprefix --ignore=,$(APART))

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=tests/importroot $(BIN)/mypy -p pannier
	PYTHONPATH=tests/importroot $(BIN)/lint-imports
	$(BIN)/stubtest pannier._native
	cd $(CORE) && cargo fmt --all --check
	cd $(CORE) && cargo clippy --quiet --release --workspace --all-targets -- -D warnings

# The real programs that tests and benchmarks compare with; from Debian's packages.
peers:
	@missing=""; for p in $(PEERS); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing$$missing"; $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

bench: build
	$(BIN)/python -m tests.bench.run $(if $(QUICK),--quick)

# Shared memory alone: rings, torn reads, and from a publish to its being in force; docs/policy-plane.md has the figures.
bench-plane: build
	cd $(CORE) && cargo build --quiet --release -p pannier-table --example plane
	$(BIN)/python -m tests.bench.plane $(CORE)/target/release/examples/plane

# How the pilot scales, by a native client; docs/fleet.md has the figures. ONLY="churn slow" picks, STORE=etcd, QUICK=1.
bench-fleet: build
	$(BIN)/python -m tests.bench.fleet $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(STORE),--store $(STORE))
	$(if $(ONLY)$(QUICK),,$(BIN)/python -m tests.bench.fleet_follower)

# What leaning on a Central does for a host that starves; root, five minutes. ONLY=redirect picks a way out.
bench-central: build
	$(BIN)/python -m tests.bench.central $(if $(ONLY),--only $(ONLY))

# What a start takes, what all processes weigh and what they cost while idle; PROFILE= and FOR= (seconds idle).
bench-start: build
	$(BIN)/python -m tests.bench.start $(if $(filter command line,$(origin PROFILE)),--profile $(PROFILE)) $(if $(FOR),--idle $(patsubst %s,%,$(FOR)))

# ROWS="kill-* storm" picks rows, TABLE=bus a table, LANES=1 tries them one after the other instead of three at a time;
# results accumulate, and `make docs` takes them over.
faults: build
	$(BIN)/python -m tests.faults.run $(if $(ROWS),--rows "$(ROWS)") $(if $(TABLE),--table "$(TABLE)") $(if $(REPEAT),--repeat $(REPEAT)) $(if $(LANES),--lanes $(LANES))
	$(if $(ROWS)$(TABLE),,$(BIN)/python -m tests.conformance.differential.run)
	$(if $(ROWS)$(TABLE),,$(BIN)/python -m tests.sidecars.pilot.xds.churn)

# Ten minutes of load in which nothing fails and nothing grows; FOR=90s for less.
soak: build
	$(BIN)/python -m tests.faults.soak $(if $(FOR),--for $(FOR))

# Every parser with libFuzzer, each FOR so long; `make test` has a short form without it. What is found wrong is left in
# target/fuzz-found, what is merely new in target/fuzz-corpus. Coverage by LLVM's own pass, so that stable Rust will do.
# The bus's stream and the loader of profiles are Python: their tests in a long form, as TARGET=bus and TARGET=profiles.
FUZZED   := $(if $(TARGET),$(filter-out bus profiles,$(TARGET)),$(notdir $(wildcard $(CORE)/fuzz/corpus/*)))
SEARCHED := $(patsubst bus,tests/shared/test_bus_stream.py,$(patsubst profiles,tests/shared/test_bad_input.py,$(if $(TARGET),$(filter bus profiles,$(TARGET)),bus profiles)))
HOST      = $(shell rustc -vV | sed -n 's/^host: //p')
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing

fuzz: $(if $(SEARCHED),build) | toolchain
	$(if $(SEARCHED),PANNIER_FUZZ=100000 PANNIER_FAULTS=1 $(BIN)/python -m pytest -q $(SEARCHED))
	$(if $(FUZZED),$(MAKE) --no-print-directory fuzz-guided)

.PHONY: fuzz-guided
fuzz-guided:
	cd $(CORE)/fuzz/guided && RUSTFLAGS="$(COVERAGE)" cargo build --quiet --release --target $(HOST) --target-dir ../../target/fuzz
	cd $(CORE) && mkdir -p target/fuzz-found && for target in $(FUZZED); do \
	  echo "== $$target"; mkdir -p target/fuzz-corpus/$$target; \
	  PANNIER_FUZZ=$$target target/fuzz/$(HOST)/release/guided target/fuzz-corpus/$$target fuzz/corpus/$$target \
	    -artifact_prefix=target/fuzz-found/$$target- -max_total_time=$(or $(patsubst %s,%,$(FOR)),60) -timeout=10 \
	    -max_len=8192 -print_final_stats=1 -verbosity=0 || exit 1; done

# The only target that rewrites files of the repository: the tables of promises in docs/sidecars, docs/benchmarks from the
# last whole `make bench` of this working copy if that is newer, docs/promises from what `make faults` has found, and pictures.
docs: build
	$(BIN)/python -m tests.structure.semantics
	$(BIN)/python -m tests.bench.page
	$(BIN)/python -m tests.faults.promises
	$(BIN)/python -m docs.pictures.central_mesh

# The environment, then what Rust changed since: the copies in the environment go stale by themselves.
build: $(VENV)/.installed $(VENV)/.native

$(VENV)/.installed: pyproject.toml setup.py | toolchain
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pannier needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,lint,shop]'
	touch $@

$(VENV)/.native: $(RUST) $(VENV)/.installed | toolchain
	cd $(CORE) && cargo build --quiet --release --workspace
	for program in pannierd pannier-keeper; do \
	  install -m 755 $(CORE)/target/release/$$program $(BIN)/$$program.new && mv $(BIN)/$$program.new $(BIN)/$$program; done
	install -m 755 $(CORE)/target/release/lib_native.so $(NATIVE).new && mv $(NATIVE).new $(NATIVE)
	touch $@

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { echo "pannier builds a native data path: install Rust 1.88 or newer (rustup), then run make again"; exit 1; }

clean:
	rm -rf build .build dist $(VENV) $(CORE)/target $(NATIVE) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
