# Everything a newcomer needs. Both main targets install the Debian packages that are missing (as root on Debian; they say so).

CARGO ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

MATRIX_DIR := $(abspath $(if $(KEEPSAKE_MATRIX_DIR),$(KEEPSAKE_MATRIX_DIR),$(TARGET_DIR)/matrix))

.PHONY: demo test test-matrix prove-engines prove-cut prove-restore prove-config prove-kube check lint setup-demo setup-test setup-matrix bench bench-cut bench-restore

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

# Every engine on servers and clients of other releases of Debian (and of Ubuntu, if KEEPSAKE_MATRIX_UBUNTU names a mirror: MySQL 8), unpacked beside the build (about 2.5 GB) and run under chroot: as root, on Debian.
# What cannot be had is not tried; the table at the end tells.
test-matrix: setup-matrix
	tests/matrix/unpack "$(MATRIX_DIR)"
	rm -rf "$(MATRIX_DIR)/results"
ifeq ($(NEXTEST),yes)
	status=0; KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" $(CARGO) nextest run --locked -p keepsake-tests --test matrix || status=$$?; \
	tests/matrix/table "$(MATRIX_DIR)"; exit $$status
else
	status=0; KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" $(CARGO) test --locked -p keepsake-tests --test matrix || status=$$?; \
	tests/matrix/table "$(MATRIX_DIR)"; exit $$status
endif

# Every engine, every fault: conformance, kill loops over all events, S3 faults, other servers, a million fuzzed inputs; and for each claim a
# deliberate break that must be seen. At most 30 minutes. Its status is 4 when something could not be tried here.
prove-engines: setup-test
	@tests/install-packages matrix || echo "servers of other releases will be skipped" >&2
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p keepsake-tests --test matrix --no-run
	KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" KEEPSAKE_REQUIRE_SERVERS=1 "$(TARGET_DIR)/debug/keepsake-prove-engines"

# One instant over all stores: fifty sets taken while writers write, every blow between every two steps of a cut, holds on the servers of other
# releases; and for each claim a deliberate break that must be seen. At most 20 minutes.
prove-cut: setup-test
	@tests/install-packages matrix && tests/matrix/unpack "$(MATRIX_DIR)" bullseye-redis bullseye-mariadb sid-mariadb sid-mysql || echo "servers of other releases will be skipped" >&2
	$(CARGO) build --locked --workspace --bins
	KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" KEEPSAKE_REQUIRE_SERVERS=1 "$(TARGET_DIR)/debug/keepsake-prove-cut"

# All or nothing: every step that fails and every place where a coordinator can die, agents and servers killed between every two sub-steps of a load, what
# must be refused, what may be in the way, and old data dropped or put back; and for each claim a deliberate break that must be seen. At most 30 minutes.
prove-restore: setup-test
	@tests/install-packages matrix && tests/matrix/unpack "$(MATRIX_DIR)" sid-mysql || echo "MySQL will be skipped" >&2
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p keepsake-tests --test it --no-run
	KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" KEEPSAKE_REQUIRE_SERVERS=1 "$(TARGET_DIR)/debug/keepsake-prove-restore"

# Backend's Config is what System's database says: exactly, of whole streams only, gently, of 200,000 applications (KEEPSAKE_SOAK=1: of a million, too, which
# takes some GB); and for each claim a deliberate break that must be seen. At most 20 minutes.
prove-config: setup-test
	$(CARGO) build --locked --workspace --bins
	KEEPSAKE_REQUIRE_SERVERS=1 "$(TARGET_DIR)/debug/keepsake-prove-config"

# Kubernetes, on a genuine control plane: objects, stopping and starting, Jobs and rollouts, Roles, manifests; on a node real stores in pods, with images of
# static programs where they can be built (about 15 minutes at first); and for each claim a deliberate break that must be seen. PARTIAL where there is no
# control plane (KUBEBUILDER_ASSETS) or no node (../shared/kube). At most 40 minutes, beside building.
prove-kube: setup-test
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p keepsake-tests --test it --test kube --test node --no-run
	@tests/install-packages static || echo "images will be made of programs that are not static" >&2
	images=; if CC_x86_64_unknown_linux_musl=musl-gcc $(CARGO) build --locked --release --target x86_64-unknown-linux-musl -p keepsake-agent -p keepsake-coordinator --bins; \
	then images="$(abspath $(TARGET_DIR))/x86_64-unknown-linux-musl/release"; else echo "images are made of programs that are not static" >&2; fi; \
	KEEPSAKE_MATRIX_DIR="$(MATRIX_DIR)" KEEPSAKE_IMAGE_PROGRAMS="$${images:-$(abspath $(TARGET_DIR))/debug}" "$(TARGET_DIR)/debug/keepsake-prove-kube"

# Formatting and lints, as CI runs them.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features keepsake-core/testing -- -D warnings
	$(CARGO) clippy --locked -p keepsake-tests --test matrix -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and banned crates were not checked" >&2; fi

check: lint test

# What a dump costs in time and memory; SIZES in MB. Optimised, so the first build takes its time.
bench: setup-test
	$(CARGO) build --release --locked -p keepsake-agent -p keepsake-coordinator --bins
	KEEPSAKE_BIN_DIR="$(abspath $(TARGET_DIR))/release" $(CARGO) bench --locked -p keepsake-tests --bench dump --profile dev -- $(SIZES)

# What a cut costs whoever writes, and what several dump tools gain; SIZES in MB.
bench-cut: setup-test
	$(CARGO) build --release --locked -p keepsake-agent -p keepsake-coordinator --bins
	KEEPSAKE_BIN_DIR="$(abspath $(TARGET_DIR))/release" $(CARGO) bench --locked -p keepsake-tests --bench cut --profile dev -- $(SIZES)

# What a restore costs against what people do by hand; SIZES in MB, and components.
bench-restore: setup-test
	$(CARGO) build --release --locked -p keepsake-agent -p keepsake-coordinator --bins
	KEEPSAKE_BIN_DIR="$(abspath $(TARGET_DIR))/release" $(CARGO) bench --locked -p keepsake-tests --bench restore --profile dev -- $(SIZES)

setup-demo:
	@tests/install-packages demo

setup-test:
	@tests/install-packages test

setup-matrix:
	@tests/install-packages matrix
