# Everything a newcomer needs. Both main targets install the Debian packages that are missing (as root on Debian; they say so).

CARGO ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.PHONY: demo test check lint setup-demo setup-test bench

# Fill two installations on real servers, back up, wreck one, restore, compare, restore one store by hand. Built as the tests are: an
# optimised build takes longer than the demo saves.
demo: setup-demo
	$(CARGO) build --locked --workspace --bins
	KEEPSAKE_BIN_DIR="$(abspath $(TARGET_DIR))/debug" "$(TARGET_DIR)/debug/keepsake-demo"

# Everything: unit, property, wire, every engine on its real server.
test: setup-test
	$(CARGO) build --locked --workspace --bins
ifeq ($(NEXTEST),yes)
	KEEPSAKE_REQUIRE_SERVERS=1 $(CARGO) nextest run --locked --workspace --features keepsake-core/testing
	$(CARGO) test --locked --workspace --doc
else
	KEEPSAKE_REQUIRE_SERVERS=1 $(CARGO) test --locked --workspace --features keepsake-core/testing
endif

# Formatting and lints, as CI runs them.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features keepsake-core/testing -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and banned crates were not checked" >&2; fi

check: lint test

# What a dump costs in time and memory; SIZES in MB. Optimised, so the first build takes its time.
bench: setup-test
	$(CARGO) build --release --locked -p keepsake-agent -p keepsake-coordinator --bins
	KEEPSAKE_BIN_DIR="$(abspath $(TARGET_DIR))/release" $(CARGO) bench --locked -p keepsake-tests --bench dump --profile dev -- $(SIZES)

setup-demo:
	@tests/install-packages demo

setup-test:
	@tests/install-packages test
