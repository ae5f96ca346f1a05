# What people do with llamafs. `make test` is all that CI runs.
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
LOOM_MODELS := $(wildcard tests/loom_*.rs)
STRESS := $(wildcard tests/stress_*.rs)
BENCHES := $(wildcard benches/*.rs)

.PHONY: all demo test lint stress bench loom doc install clean

all:
	$(CARGO) build --release --locked

# A 256 MiB store, eight programs appending at once, everything compared: ends in `demo: OK`.
demo:
	@tests/demo.sh

test: lint
	$(CARGO) test --release --locked --lib --bins --tests
	$(CARGO) test --release --locked --doc
	$(MAKE) loom

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

# The ring under heavy load, 100 runs: longer than CI can wait.
stress:
ifeq ($(strip $(STRESS)),)
	@echo "stress: no tests/stress_*.rs here"
else
	LLAMAFS_STRESS_RUNS=$${LLAMAFS_STRESS_RUNS:-100} $(CARGO) test --release --locked \
		$(patsubst tests/%.rs,--test %,$(STRESS)) -- --nocapture
endif

bench:
ifeq ($(strip $(BENCHES)),)
	@echo "bench: no benches/*.rs here"
else
	$(CARGO) bench --locked
endif

# Model checking of the ring, in a target directory of its own: the flag changes every crate.
loom:
ifeq ($(strip $(LOOM_MODELS)),)
	@echo "loom: no tests/loom_*.rs here"
else
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test --release --locked \
		$(patsubst tests/%.rs,--test %,$(LOOM_MODELS))
endif

doc:
	$(CARGO) doc --locked --no-deps

install: all
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" mount-scripts/install target/release/llamafs

clean:
	$(CARGO) clean
