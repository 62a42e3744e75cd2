# Builds Puerta. GNU make 3.81 or newer (on a BSD: gmake); there is no configure step.
#
# Honoured from the command line or the environment: CC CFLAGS CPPFLAGS LDFLAGS LDLIBS DESTDIR PREFIX.
# VARIANT=asan|noheap|faults builds a test variant into build/VARIANT/; WERROR=1 makes every warning an error.

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
SYSCONFDIR ?= $(PREFIX)/etc
DOCDIR  ?= $(PREFIX)/share/doc/puerta
MANDIR  ?= $(PREFIX)/share/man
CFLAGS  ?= -O2
FUZZ_CC ?= clang
VARIANT ?=
WERROR  ?=

BUILD ?= build
B := $(BUILD)$(if $(VARIANT),/$(VARIANT))

ifneq ($(filter-out asan noheap faults,$(VARIANT)),)
$(error VARIANT=$(VARIANT) is not known; it is one of asan, noheap, faults, or empty)
endif

STD  := -std=c99 -D_POSIX_C_SOURCE=200809L
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla $(if $(WERROR),-Werror)

VARIANT_asan   := -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
VARIANT_noheap := -g -DPUERTA_NOHEAP
VARIANT_faults := -g -DPUERTA_FAULTS
VARIANT_LINK_asan := -fsanitize=address,undefined

COMPILE = $(CC) $(STD) -I. $(CPPFLAGS) $(CFLAGS) $(WARN) $(VARIANT_$(VARIANT))
LINK    = $(CC) $(CFLAGS) $(VARIANT_LINK_$(VARIANT)) $(LDFLAGS)
FUZZING = $(FUZZ_CC) $(STD) -I. $(CPPFLAGS) -g -O1 -fno-omit-frame-pointer $(WARN) -fsanitize=address,undefined -fno-sanitize-recover=all

# A build without one of the modes: make NO_MONGO=1, or NO_REDIS=1, after a make clean; NO_ADMIN=1: without the listener of operators.
WITHOUT := $(if $(NO_MONGO),mongo%.c bson.c affinity.c scram.c hash.c) $(if $(NO_REDIS),redis%.c users.c) \
           $(if $(NO_ADMIN),admin%.c metrics.c http.c answer.c url.c ctl%.c jread.c)
override CPPFLAGS += $(if $(NO_MONGO),-DPUERTA_NO_MONGO) $(if $(NO_REDIS),-DPUERTA_NO_REDIS) $(if $(NO_ADMIN),-DPUERTA_NO_ADMIN)

SRC  := $(sort $(filter-out $(WITHOUT),$(wildcard *.c)))
OBJ  := $(SRC:%.c=$(B)/%.o) $(if $(NO_ADMIN),,$(B)/dashboard.o)
LIB  := $(filter-out $(B)/puerta.o,$(OBJ))
UNIT := $(patsubst tests/unit/%.c,$(B)/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
REPLAY := $(patsubst tests/fuzz/%.c,$(B)/replay/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_LIB := $(patsubst %.c,$(BUILD)/fuzz/obj/%.o,$(filter-out puerta.c,$(SRC))) $(if $(NO_ADMIN),,$(BUILD)/fuzz/obj/dashboard.o)
EXTRA_noheap := $(B)/tests/noheap.o
EXTRA := $(EXTRA_$(VARIANT))

all: $(B)/puerta
objects: $(OBJ)

$(B)/puerta: $(OBJ) $(EXTRA)
	$(LINK) -o $@ $(OBJ) $(EXTRA) $(LDLIBS)

$(B)/%.o: %.c $(B)/.flags
	$(COMPILE) -MMD -MP -c -o $@ $<

# The page of the admin listener as bytes, and the policy that stands in it; what a page cannot say of itself is added.
$(BUILD)/dashboard.c: dashboard.html Makefile
	@mkdir -p $(@D)
	@{ echo '#include "dashboard.h"'; \
	sed -n 's/.*Security-Policy" content="\([^"]*\)".*/const char dashboard_csp[] = "\1; frame-ancestors '"'none'"'";/p' dashboard.html; \
	echo 'const unsigned char dashboard_html[] = {'; \
	od -A n -t u1 -v dashboard.html | awk '{ for (i = 1; i <= NF; i++) printf "%s,", $$i; print "" }'; \
	echo '};'; echo 'const size_t dashboard_html_len = sizeof dashboard_html;'; } > $@.new && mv $@.new $@

$(B)/dashboard.o: $(BUILD)/dashboard.c $(B)/.flags
	$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/fuzz/obj/dashboard.o: $(BUILD)/dashboard.c
	@mkdir -p $(@D)
	$(FUZZING) -fsanitize=fuzzer-no-link -DPUERTA_FUZZ -MMD -MP -c -o $@ $<

$(B)/tests/%.o: tests/%.c $(B)/.flags
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -c -o $@ $<

# Rewritten only when the commands change, so that other flags mean other objects.
$(B)/.flags: FORCE
	@mkdir -p $(B)
	@echo '$(COMPILE) $(LINK) $(LDLIBS)' | cmp -s - $@ || echo '$(COMPILE) $(LINK) $(LDLIBS)' > $@

# The test tools.
load: $(B)/tests/load
$(B)/tests/load: tests/load.c $(B)/.flags
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -MF $@.d $(LDFLAGS) $(VARIANT_LINK_$(VARIANT)) -o $@ $< $(LDLIBS)

crowd: $(B)/tests/mongo_crowd
CROWD := $(sort $(wildcard tests/crowd/*.c)) bson.c mongomsg.c mongowire.c text.c
$(B)/tests/mongo_crowd: $(CROWD) tests/crowd/crowd.h bson.h mongomsg.h mongowire.h text.h $(B)/.flags
	@mkdir -p $(@D)
	$(COMPILE) $(LDFLAGS) $(VARIANT_LINK_$(VARIANT)) -o $@ $(CROWD) $(LDLIBS)

# Unit tests: each is one program over all objects but main's.
$(B)/unit/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -MF $@.d -o $@ $< $(LIB) $(LDFLAGS) $(VARIANT_LINK_$(VARIANT)) $(LDLIBS)

unit-build: $(UNIT)

unit: $(UNIT)
	@ok=0; bad=0; for t in $(UNIT); do \
		if $$t; then ok=$$((ok + 1)); echo "ok   $$t"; else bad=$$((bad + 1)); echo "FAIL $$t"; fi; \
	done; echo "unit programs: $$ok passed, $$bad failed"; test $$bad -eq 0 && test $$ok -gt 0

# Fuzz targets (clang's libFuzzer), and their corpus as an ordinary test with any compiler.
fuzz: $(FUZZ)

$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZING) -fsanitize=fuzzer-no-link -DPUERTA_FUZZ -MMD -MP -c -o $@ $<

$(BUILD)/fuzz/%: tests/fuzz/%.c $(FUZZ_LIB)
	@mkdir -p $(@D)
	$(FUZZING) -fsanitize=fuzzer -DPUERTA_FUZZ -MMD -MP -MF $@.d -o $@ $< $(FUZZ_LIB) $(LDFLAGS) $(LDLIBS)

$(B)/replay/%: tests/fuzz/%.c tests/replay.c $(LIB)
	@mkdir -p $(@D)
	$(COMPILE) -o $@ $< tests/replay.c $(LIB) $(LDFLAGS) $(VARIANT_LINK_$(VARIANT)) $(LDLIBS)

replay: $(REPLAY)
	@bad=0; for t in $(REPLAY); do \
		$$t tests/fuzz/corpus/$$(basename $$t | sed 's/^fuzz_//') || bad=1; \
	done; test $$bad -eq 0

# The lists in the man pages, between two lines of theirs: what the program says of itself. The pages are kept in the tree.
lists: $(B)/man/lists
$(B)/man/lists: man/lists.c $(LIB)
	@mkdir -p $(@D)
	$(COMPILE) -o $@ $< $(LIB) $(LDFLAGS) $(VARIANT_LINK_$(VARIANT)) $(LDLIBS)

MAN_LIST = awk -v program=$(B)/man/lists -v list=$(1) -f man/between.awk $(2) > $(B)/man/page && cat $(B)/man/page > $(2)

man: $(B)/man/lists
	$(call MAN_LIST,options,man/puerta.conf.5)
	$(call MAN_LIST,counters,man/puerta.8)
	$(call MAN_LIST,tables,man/puerta.8)

check:
	sh check.sh

SERVICE := puerta.service puerta.openrc puerta.openbsd puerta.freebsd s6/run s6/notification-fd

install: $(B)/puerta
	mkdir -p $(DESTDIR)$(BINDIR) $(DESTDIR)$(SYSCONFDIR) $(DESTDIR)$(DOCDIR)/service/s6 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	install -m 755 $(B)/puerta $(DESTDIR)$(BINDIR)/puerta
	install -m 644 puerta.conf.example $(DESTDIR)$(SYSCONFDIR)/puerta.conf.example
	install -m 644 README.md $(DESTDIR)$(DOCDIR)/README.md
	install -m 644 man/puerta.conf.5 $(DESTDIR)$(MANDIR)/man5/puerta.conf.5
	install -m 644 man/puerta.8 $(DESTDIR)$(MANDIR)/man8/puerta.8
	for f in $(SERVICE); do install -m 644 service/$$f $(DESTDIR)$(DOCDIR)/service/$$f; done

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/puerta $(DESTDIR)$(SYSCONFDIR)/puerta.conf.example $(DESTDIR)$(DOCDIR)/README.md
	rm -f $(DESTDIR)$(MANDIR)/man5/puerta.conf.5 $(DESTDIR)$(MANDIR)/man8/puerta.8
	rm -f $(SERVICE:%=$(DESTDIR)$(DOCDIR)/service/%)
	rmdir $(DESTDIR)$(DOCDIR)/service/s6 $(DESTDIR)$(DOCDIR)/service $(DESTDIR)$(DOCDIR) 2>/dev/null || :

clean:
	rm -rf $(BUILD)

help:
	@echo 'make             build/puerta'
	@echo 'make objects     compiles without linking: for a system whose libraries are not at hand'
	@echo 'make check       everything the CI runs (sh check.sh; sh check.sh --all for the longer form)'
	@echo 'make unit        unit tests: tests/unit/test_*.c'
	@echo 'make load        the correctness load: build/tests/load'
	@echo 'make crowd       the load of MongoDB mode: build/tests/mongo_crowd'
	@echo 'make fuzz        libFuzzer targets into build/fuzz (needs clang)'
	@echo 'make replay      the fuzz corpus as an ordinary test'
	@echo 'make man         the lists in man/, anew from the program'
	@echo 'make install     to $$DESTDIR$$PREFIX (/usr/local); make uninstall takes it away'
	@echo 'make clean       removes build/'
	@echo ''
	@echo 'VARIANT=asan     address and undefined-behaviour sanitizers, into build/asan'
	@echo 'VARIANT=noheap   aborts on any heap call after the seal, into build/noheap'
	@echo 'VARIANT=faults   PUERTA_FAULTS="every=N,limit=M" makes socket calls fail, into build/faults'
	@echo 'WERROR=1         warnings are errors'
	@echo 'BUILD=DIR        builds elsewhere; CC CFLAGS CPPFLAGS LDFLAGS LDLIBS DESTDIR PREFIX as usual'
	@echo ''
	@echo 'Needs GNU make 3.81 or newer: on a BSD, say gmake.'

FORCE:
.PHONY: all objects man lists load crowd unit-build unit fuzz replay check install uninstall clean help FORCE
.SECONDARY:

-include $(OBJ:.o=.d) $(wildcard $(B)/unit/*.d $(B)/tests/*.d $(BUILD)/fuzz/*.d $(BUILD)/fuzz/obj/*.d)
