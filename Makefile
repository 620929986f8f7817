# Foresay. `make help` lists the targets.
#
# One archive a folder (kernels, engine, gateway), one binary, tests beside it under build/. Sources are found by name:
#   kernels/cpu/*_avx2.c and *_avx512.c get their instruction sets; tests/test_*.c are unit tests, tests/fuzz_*.c fuzz targets.
# The sanitizer builds are this same file with another BUILD folder and SANITIZE flags.

BUILD    ?= build
CC       ?= gcc
PREFIX   ?= /usr/local
SANITIZE ?=
OPT      ?= -O2
CFLAGS   += -std=gnu11 -g $(OPT) -Wall -Wextra -Wshadow -Wconversion -Werror -ffp-contract=off -fno-math-errno \
            -pthread -I. -MMD -MP $(SANITIZE)
LDLIBS   += -lwebsockets -luv -ljansson -lsqlite3 -lsodium -lpcre2-8 -lutf8proc -lm -pthread

AVX2     := -mavx2 -mfma -mf16c
AVX512   := $(AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni

kernels_src := $(wildcard kernels/*.c kernels/cpu/*.c)
engine_src  := $(wildcard engine/*.c)
gateway_src := $(filter-out gateway/main.c,$(wildcard gateway/*.c))
obj          = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
archives    := $(BUILD)/gateway.a $(BUILD)/engine.a $(BUILD)/kernels.a
unit_tests  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
checks      := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/check_*.c))
fuzzers     := $(patsubst tests/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz_*.c))

all: $(BUILD)/foresay ## build the binary (default)

$(BUILD)/foresay: $(BUILD)/obj/gateway/main.o $(archives)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/kernels.a: $(call obj,$(kernels_src))
$(BUILD)/engine.a: $(call obj,$(engine_src))
$(BUILD)/gateway.a: $(call obj,$(gateway_src))
$(BUILD)/%.a:
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/obj/kernels/%_avx2.o: CFLAGS += $(AVX2)
$(BUILD)/obj/kernels/%_avx512.o: CFLAGS += $(AVX512)
$(BUILD)/obj/kernels/%.o: OPT = -O3
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD)/tests/%: tests/%.c $(archives)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(archives) -lcmocka $(LDLIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
