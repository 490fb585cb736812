# gptq-kit: one program over a format library, compute kernels and a small
# Llama runtime.  `make help` lists the targets.
#
#	MODE=release|debug|asan|tsan   what is built (build/MODE)
#	CUDA=0|1                       leave out or insist on the GPU plug-in
#	CC=clang V=1 WERROR=1          as usual

MODE    ?= release
BUILD   ?= build/$(MODE)
PREFIX  ?= /usr/local
DESTDIR ?=
BINDIR  ?= $(PREFIX)/bin
LIBDIR  ?= $(PREFIX)/lib
MANDIR  ?= $(PREFIX)/share/man

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla \
	-Wmissing-prototypes -Wstrict-prototypes -Wundef -Wcast-qual -Wformat=2
FLAGS_release := -O2 -g
FLAGS_debug   := -O0 -g3
FLAGS_asan    := -O1 -g -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=all
FLAGS_tsan    := -O1 -g -fsanitize=thread
MODE_FLAGS := $(FLAGS_$(MODE))
ifeq ($(MODE_FLAGS),)
$(error MODE=$(MODE) is none of release, debug, asan, tsan)
endif

ALL_CPPFLAGS := -D_GNU_SOURCE -DGPTQ_LIBDIR='"$(LIBDIR)/gptq"' $(CPPFLAGS)
ALL_CFLAGS := -std=c11 $(WARN) $(if $(WERROR),-Werror) $(MODE_FLAGS) \
	-fno-math-errno -fPIE -fvisibility=hidden -pthread $(CFLAGS)
ALL_LDFLAGS := $(MODE_FLAGS) -pie -pthread $(LDFLAGS)
LIBS := -lcjson -lpcre2-8 -lzstd -lz -lxxhash -ldl -lm \
	$(LDLIBS)

# One source list, sorted, so that the order of linking never changes.
src = $(sort $(wildcard $(addsuffix /*.c,$1)))
ARCH := $(shell uname -m)
LIB_SRC := $(call src,libfmt/base libfmt/container libfmt/layout libfmt \
	kernels kernels/cpu runtime quant)
ifneq ($(ARCH),x86_64)
LIB_SRC := $(filter-out %_avx2.c %_avx512.c %_vnni.c,$(LIB_SRC))
endif
TOOL_SRC := $(call src,tools)
UNIT_SRC := $(call src,tests/unit)
obj = $(patsubst %.c,$(BUILD)/obj/%.o,$1)
LIB_OBJ  := $(call obj,$(LIB_SRC))
TOOL_OBJ := $(call obj,$(TOOL_SRC)) $(BUILD)/obj/tools/inspect_page.o
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(UNIT_SRC))
APPLETS  := quantize inspect repack verify run
LINKS    := $(APPLETS:%=$(BUILD)/gptq-%)

# The GPU plug-in: with CUDA=1, as it takes nvcc and, for all CUDA_ARCHS, many
# minutes.  The last of them is also kept as PTX, for devices to come.
NVCC ?= nvcc
CUDA_ARCHS ?= 75 80 86 89 90a 100 120
CUDA_BUILD ?= build/cuda
HAVE_NVCC := $(shell command -v $(NVCC) 2>/dev/null)
CUDA_SRC := $(sort $(wildcard kernels/cuda/*.cu))
ifneq ($(HAVE_NVCC),)
# From CUDA 12.8 on: a third of the bytes, which the driver unpacks.
NVCC_SIZE := $(shell $(NVCC) --help | grep -q compress-mode && \
	echo --compress-mode=size)
endif
ifeq ($(CUDA),1)
ifneq ($(CUDA_SRC),)
ifneq ($(HAVE_NVCC),)
PLUGIN := $(BUILD)/gptq-cuda.so
endif
endif
endif

Q := $(if $(V),,@)

.PHONY: all
all: $(BUILD)/gptq $(LINKS) $(PLUGIN) cuda-note
	@:

.PHONY: cuda-note
cuda-note:
ifeq ($(PLUGIN),)
ifeq ($(CUDA),1)
	@echo "make: CUDA=1, but the GPU plug-in cannot be built: $(if \
		$(CUDA_SRC),no $(NVCC) on the PATH,kernels/cuda has no sources)" >&2
	@exit 1
else
	@echo "note: the GPU plug-in is left out ($(if \
		$(HAVE_NVCC),CUDA=1 builds it,no nvcc))"
endif
endif

$(BUILD)/gptq: $(TOOL_OBJ) $(BUILD)/libgptq.a
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(LINKS): $(BUILD)/gptq
	$(Q)ln -sf gptq $@

$(BUILD)/libgptq.a: $(LIB_OBJ)
	@echo "  AR      $@"
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libgptq.a
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(FILE_FLAGS) -MMD -MP -c -o $@ $<

# The page of gptq-inspect --html as an array of its lines.
$(BUILD)/obj/tools/inspect_page.c: tools/inspect_page.html
	@mkdir -p $(@D)
	$(Q){ echo 'extern const char *const inspect_page[];'; \
	echo 'const char *const inspect_page[] = {'; \
	sed 's/["\\]/\\&/g; s/.*/"&\\n",/' $<; echo '0 };'; } >$@

$(BUILD)/obj/tools/inspect_page.o: $(BUILD)/obj/tools/inspect_page.c
	@echo "  CC      $<"
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -c -o $@ $<

# Flags of single files: vector variants are chosen at run time, and the
# reference must not fuse.
$(BUILD)/obj/%_avx2.o: FILE_FLAGS := -mavx2 -mfma -mf16c
AVX512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c
$(BUILD)/obj/%_avx512.o: FILE_FLAGS := $(AVX512)
$(BUILD)/obj/%_vnni.o: FILE_FLAGS := $(AVX512) -mavx512vnni
# Loops that are meant to become vectors.
$(BUILD)/obj/libfmt/layout/bits_tile_generic.o: FILE_FLAGS := -O3
$(BUILD)/obj/libfmt/layout/bits_tile_avx2.o: FILE_FLAGS := -O3 -mavx2
$(BUILD)/obj/libfmt/layout/bits_tile_avx512.o: FILE_FLAGS := -O3 -mavx512f \
	-mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512
$(BUILD)/obj/kernels/cpu/ref%.o: FILE_FLAGS := -ffp-contract=off

# The plug-in is the same in every mode, so its objects are shared.  It does
# not link the library: errors and the checks of shapes are compiled into it.
CUDA_C := libfmt/base/err.c libfmt/base/mem.c kernels/shape.c kernels/tile.c
CUDA_OBJ := $(CUDA_SRC:%.cu=$(CUDA_BUILD)/%.o) $(CUDA_C:%.c=$(CUDA_BUILD)/%.o)
GENCODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
	$(foreach a,$(lastword $(CUDA_ARCHS)),-gencode \
	arch=compute_$a,code=compute_$a)
NVCCFLAGS := -std=c++17 -O3 $(GENCODE) $(NVCC_SIZE) \
	$(if $(WERROR),-Werror all-warnings) \
	-Xcompiler -fPIC,-Wall,-Wextra,-Wno-missing-field-initializers

$(BUILD)/gptq-cuda.so: $(CUDA_OBJ) kernels/cuda/plugin.map
	@mkdir -p $(@D)
	@echo "  NVLINK  $@"
	$(Q)$(NVCC) -shared -cudart static $(GENCODE) $(NVCC_SIZE) -o $@ $(CUDA_OBJ) \
		-Xlinker --version-script=kernels/cuda/plugin.map \
		-Xlinker -z -Xlinker defs -ldl -lpthread

$(CUDA_BUILD)/%.o: %.cu $(CUDA_BUILD)/flags
	@mkdir -p $(@D)
	@echo "  NVCC    $<"
	$(Q)$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

$(CUDA_BUILD)/%.o: %.c $(CUDA_BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC      $< (plug-in)"
	$(Q)$(CC) $(ALL_CPPFLAGS) -std=c11 $(WARN) -O2 -g -fPIC \
		-fvisibility=hidden -MMD -MP -c -o $@ $<

$(CUDA_BUILD)/flags: force
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCCFLAGS)' | cmp -s - $@ || \
		echo '$(NVCC) $(NVCCFLAGS)' > $@

# Versions of a kernel on one harness, for a machine with a GPU; never linked
# into the plug-in.
LADDER := $(patsubst kernels/ladder/%.cu,build/ladder/%,$(sort $(wildcard \
	kernels/ladder/*.cu)))
.PHONY: ladder
ladder: $(if $(HAVE_NVCC),$(LADDER))
	$(if $(HAVE_NVCC),@:,@echo "make: no $(NVCC) for the ladder" >&2; exit 1)

build/ladder/%: kernels/ladder/%.cu $(CUDA_OBJ)
	@mkdir -p $(@D)
	@echo "  NVCC    $@"
	$(Q)$(NVCC) $(NVCCFLAGS) -cudart static -o $@ $< $(CUDA_OBJ) -ldl

# Rebuild when the compiler or a flag changes.
STAMP := $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)
.PHONY: force
$(BUILD)/flags: force
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(STAMP))' | cmp -s - $@ || \
		printf '%s\n' '$(subst ','\'',$(STAMP))' > $@

# ---- tests ----

KERNEL_SRC := $(call src,tests/kernels)
FUZZ_SRC   := $(filter tests/fuzz/fuzz_%.c,$(call src,tests/fuzz))
KERNEL_BIN := $(if $(KERNEL_SRC),$(BUILD)/tests/kernels/check)
FUZZ_BIN   := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(FUZZ_SRC))

$(BUILD)/tests/kernels/check: $(call obj,$(KERNEL_SRC)) $(BUILD)/libgptq.a
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# Without a fuzzing engine the harness replays a corpus, file by file.
$(BUILD)/tests/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o \
		$(BUILD)/obj/tests/fuzz/replay.o $(BUILD)/libgptq.a
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

.PHONY: unit kernels replay cli
unit: all $(UNIT_BIN)
	$(Q)tests/unit/run $(UNIT_BIN)

kernels: $(KERNEL_BIN)
	$(Q)$(KERNEL_BIN)

replay: $(FUZZ_BIN)
	$(Q)tests/fuzz/run $(FUZZ_BIN)

# The server that the tests of remote reading talk to.
$(BUILD)/tests/server: $(BUILD)/obj/tests/cli/server.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

# What a command takes of memory.
$(BUILD)/tests/peak: $(BUILD)/obj/tests/cli/peak.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

# Checkpoints of any size, for the bench and the tests of large ones.
$(BUILD)/bench/hollow: $(BUILD)/obj/bench/hollow.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

cli: all $(BUILD)/tests/server $(BUILD)/tests/peak $(BUILD)/bench/hollow
	$(Q)GPTQ_BIN=$(abspath $(BUILD)) tests/cli/run

# Everything, in release and again under the sanitizers.
.PHONY: check check-mode lint interop
check-mode: unit kernels replay cli

check:
	$(Q)$(MAKE) MODE=release WERROR=1 check-mode
	$(Q)$(MAKE) MODE=asan WERROR=1 check-mode
	$(Q)$(MAKE) MODE=release lint
	$(Q)$(MAKE) MODE=release interop
	$(Q)$(MAKE) compile-cuda

lint: all $(UNIT_BIN)
	$(Q)tests/lint/run $(BUILD)

# The plug-in for two generations of GPU, so that it does not rot where nobody
# has one.  What is compiled here is not installed.
CI_ARCHS ?= 75 90a
.PHONY: compile-cuda
compile-cuda:
ifeq ($(HAVE_NVCC),)
	@echo "skipped the GPU plug-in: no $(NVCC) on the PATH"
else
	$(Q)$(MAKE) CUDA=1 CUDA_ARCHS="$(CI_ARCHS)" CUDA_BUILD=build/cuda-ci \
		BUILD=build/cuda-ci build/cuda-ci/gptq-cuda.so
endif

interop: all
	$(Q)GPTQ_BIN=$(abspath $(BUILD)) tests/interop/run

# Coverage-guided fuzzing, SECONDS of it for each harness (clang).
SECONDS ?= 60
.PHONY: fuzz
fuzz:
	$(Q)tests/fuzz/run --engine $(SECONDS) $(FUZZ_SRC)

# ---- use ----

.PHONY: demo bench install uninstall clean help
demo: all
	$(Q)GPTQ_BIN=$(abspath $(BUILD)) tests/demo

bench: all $(KERNEL_BIN)
	$(Q)GPTQ_BIN=$(abspath $(BUILD)) bench/run

MAN := $(sort $(wildcard man/*.1 man/*.5))
install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 \
		$(DESTDIR)$(MANDIR)/man5 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 755 $(BUILD)/gptq $(DESTDIR)$(BINDIR)/gptq
	for a in $(APPLETS); do ln -sf gptq $(DESTDIR)$(BINDIR)/gptq-$$a; done
	for m in $(MAN); do install -m 644 $$m \
		$(DESTDIR)$(MANDIR)/man$${m##*.}/; done
	$(BUILD)/gptq --completion bash > \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/gptq
	$(BUILD)/gptq --completion zsh > \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gptq
	$(BUILD)/gptq --completion fish > \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gptq.fish
	$(if $(PLUGIN),install -d $(DESTDIR)$(LIBDIR)/gptq && \
		install -m 755 $(PLUGIN) $(DESTDIR)$(LIBDIR)/gptq/)

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/gptq $(APPLETS:%=$(DESTDIR)$(BINDIR)/gptq-%) \
		$(foreach m,$(MAN),$(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix \
		$m))/$(notdir $m)) \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/gptq \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gptq \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gptq.fish \
		$(DESTDIR)$(LIBDIR)/gptq/gptq-cuda.so

clean:
	rm -rf build

help:
	@echo "make            the program, build/release/gptq, with its links"
	@echo "make demo       quantize, inspect, verify and run a real model"
	@echo "make check      every test, in release and under the sanitizers"
	@echo "make unit|kernels|replay|cli|lint|interop   one part of it"
	@echo "make compile-cuda     the GPU plug-in for two kinds of GPU, if nvcc is here"
	@echo "make bench      measure; figures go to bench/results"
	@echo "make ladder     versions of GPU kernels side by side (build/ladder)"
	@echo "make fuzz SECONDS=60   coverage-guided fuzzing (clang)"
	@echo "make install PREFIX=/usr/local DESTDIR=     and uninstall"
	@echo "make clean"
	@echo
	@echo "MODE=release|debug|asan|tsan  CUDA=0|1  CC=clang  V=1  WERROR=1"

-include $(CUDA_OBJ:.o=.d)
-include $(LIB_OBJ:.o=.d) $(TOOL_OBJ:.o=.d) \
	$(patsubst %.c,$(BUILD)/obj/%.d,$(UNIT_SRC) tests/cli/server.c tests/cli/peak.c bench/hollow.c $(KERNEL_SRC) $(FUZZ_SRC))
