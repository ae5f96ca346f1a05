# What people do with llamafs. `make test` is all that CI runs.
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
LOOM_MODELS := $(wildcard tests/loom_*.rs)

.PHONY: all demo fuzz test lint limits stress scale rounds torture mutants bench bench-report bench-quick bench-floor bench-memory page-cache loom \
	posix shuttle coverage doc install clean

all:
	$(CARGO) build --release --locked

# A 256 MiB store, eight programs appending at once, everything compared: ends in `demo: OK`.
demo:
	@tests/demo.sh

test: lint
	$(CARGO) test --release --locked --lib --bins --tests
	$(CARGO) test --release --locked --doc
	$(MAKE) loom
	$(MAKE) shuttle

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

# The ring under heavy load, 100 runs of 1.6 million appends by 16 threads, in memory and onto a device: longer than
# CI can wait.
STRESS_RUNS ?= 100
stress:
	$(CARGO) bench --locked --bench ring_stress -- --runs $(STRESS_RUNS)
	$(CARGO) bench --locked --bench store_stress -- --runs $(STRESS_RUNS)

# 100,000 logs in 1,000 directories over a mount, and mounts of stores of up to 1 TiB (sparse), with figures.
SCALE_LOGS ?= 100000
scale:
	LLAMAFS_SCALE_LOGS=$(SCALE_LOGS) $(CARGO) test --release --locked --test fs_catalog_scale -- --nocapture --test-threads 1
	LLAMAFS_SCALE_STORE=1 $(CARGO) test --release --locked --test fs_scale_store -- --nocapture

# A store of 1 GiB written round and round twenty times, dropping its oldest, with a follower that misses nothing.
rounds:
	LLAMAFS_ROUNDS=20 LLAMAFS_ROUND_MIB=1024 $(CARGO) test --release --locked --test fs_retention -- --nocapture a_full_store

# The limits of a mount under a flood, and a daemon without memory or privilege, with requests over io_uring. Needs root
# and Linux 6.14.
limits:
	$(CARGO) test --release --locked --test fs_uring_limits -- --nocapture --test-threads 1

# A million simulated lives of a store on a bad disk; every power failure in every sequence of up to six operations; and
# ends under load, 300 rounds each on a file and on a loop device: kill -9 of the daemon and of the writers, SIGTERM,
# umount. The last needs root. Takes hours.
TORTURE_SEEDS ?= 1000000
TORTURE_SCOPE ?= 6
TORTURE_ROUNDS ?= 300
torture:
	LLAMAFS_SIM_SEEDS=$(TORTURE_SEEDS) $(CARGO) test --release --locked --test crash -- --nocapture
	LLAMAFS_SCOPE=$(TORTURE_SCOPE) $(CARGO) test --release --locked --test exhaustive -- --nocapture
	LLAMAFS_TORTURE_ROUNDS=$(TORTURE_ROUNDS) $(CARGO) test --release --locked --test kill -- --nocapture --test-threads 1

# pjdfstest's tests of the calls that there are, over a mount: PJDFSTEST=DIR is a checkout of it. Needs root.
posix: all
	@tests/posix/run

# Deliberate bugs, each of which some test has to catch: ends in `mutants: OK`. An hour or so.
mutants:
	@nice tests/mutants/run

# Lines that the tests run, for each room: needs llvm-cov of rustc's own LLVM (rustup's component llvm-tools).
coverage:
	@nice tests/coverage

# Through a mount, against ext4, xfs, the raw device and a do-nothing FUSE file system, in turns on one loop device: the
# raw data goes to docs/performance/results.json. Needs root, and takes a quarter of an hour (BENCH_ROUNDS, BENCH_DIR).
bench:
	$(CARGO) bench --locked --bench compare -- run

# Tables and plots of that raw data, put into docs/performance.md.
bench-report:
	$(CARGO) bench --locked --bench compare -- report

# Has a ratio fallen well below what was reached (docs/performance/floor.json)? Two minutes; needs root.
bench-quick:
	$(CARGO) bench --locked --bench compare -- quick

# What is reached today becomes the floor.
bench-floor:
	$(CARGO) bench --locked --bench compare -- floor

# Without a mount, by criterion: the ring in memory, the ring onto a file, LogStructuredStore::append.
bench-memory:
	$(CARGO) bench --locked --bench ring
	$(CARGO) bench --locked --bench store

# Zeros that nobody wrote, read through the page cache of a file that grows: why a writable mount's readers go past it.
# Needs root; a minute.
page-cache:
	$(CARGO) bench --locked --bench page_cache

# Model checking of the ring, in a target directory of its own: the flag changes every crate.
loom:
ifeq ($(strip $(LOOM_MODELS)),)
	@echo "loom: no tests/loom_*.rs here"
else
	RUSTFLAGS="--cfg loom -C debug-assertions" CARGO_TARGET_DIR=target/loom $(CARGO) test --release --locked \
		$(patsubst tests/%.rs,--test %,$(LOOM_MODELS))
endif

# Each target for an hour (or FUZZ_SECONDS), one after the other: nightly, and `cargo install cargo-fuzz`. What it finds
# is kept beside the corpus; a crash is written to fuzz/artifacts.
FUZZ_TARGETS ?= decoders recovery control
FUZZ_SECONDS ?= 3600
# Longest time for one input, in seconds: more on a machine that does other things too.
FUZZ_TIMEOUT ?= 30
# `none` runs some seven times as many inputs; then only `unsafe` code is looked at less closely.
FUZZ_SANITIZER ?= address
fuzz:
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/$$target && \
		$(CARGO) +nightly fuzz run --sanitizer $(FUZZ_SANITIZER) $$target fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) \
			-timeout=$(FUZZ_TIMEOUT) -malloc_limit_mb=64 -rss_limit_mb=2048 -detect_leaks=0 -max_len=8192 || exit 1; \
	done

# Model checking of the threads around the ring (LLAMAFS_SHUTTLE=100000 for more schedules).
shuttle:
	RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle $(CARGO) test --release --locked --test shuttle_commit

doc:
	$(CARGO) doc --locked --no-deps

install: all
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" mount-scripts/install target/release/llamafs

clean:
	$(CARGO) clean
