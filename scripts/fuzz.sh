#!/bin/sh
# Coverage-guided fuzzing of the C core: operation programs (tests/c/program.h) under libFuzzer, AddressSanitizer
# and UndefinedBehaviorSanitizer.
#
#   FUZZ_SECONDS  how long (60)
#   FUZZ_KEEP=1   afterwards take what reaches new code into tests/c/corpus, and drop what no longer adds any
#   CLANG         the compiler (clang-19)
#
# Then programs of the intern table (tests/c/intern_program.h) for a quarter of the time, from no corpus.
#
# A finding is written to build/fuzz/; build/c-tests/plain/test_corpus FILE tells it step by step.
set -eu
cd "$(dirname "$0")/.."
clang=${CLANG:-clang-19}
seconds=${FUZZ_SECONDS:-60}
out=build/fuzz
corpus=tests/c/corpus

missing() {
    echo "missing: $1; on Debian or Ubuntu: apt-get install $2" >&2
    exit 1
}
command -v "$clang" >/dev/null || missing "$clang" "clang-19 libclang-rt-19-dev"
mkdir -p "$out/found"
printf 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return p == 0 && n; }\n' >"$out/probe.c"
"$clang" -fsanitize=fuzzer,address -o "$out/probe" "$out/probe.c" 2>"$out/probe.log" ||
    missing "$clang's libFuzzer (see $out/probe.log)" libclang-rt-19-dev

"$clang" -O2 -g -DNM_DEBUG -std=c11 -pthread -Icsrc/include -Icsrc -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -o "$out/fuzz" \
    tests/c/fuzz.c csrc/base/*.c csrc/alloc/*.c csrc/heap/*.c csrc/wrap/*.c

# a request that no machine can serve must come back as NULL
ASAN_OPTIONS=allocator_may_return_null=1
export ASAN_OPTIONS
log=$out/log
if ! "$out/fuzz" -max_total_time="$seconds" -max_len=600 -len_control=20 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$out/" "$out/found" "$corpus" >"$log" 2>&1; then
    grep -v '^#[0-9]*[[:space:]]*\(NEW\|REDUCE\|pulse\)' "$log" >&2
    exit 1
fi
tell() {
    grep -E 'cov:|stat::number_of_executed_units|stat::average_exec_per_sec|stat::peak_rss_mb' "$log" | tail -4
}
tell

"$clang" -O2 -g -DNM_DEBUG -std=c11 -pthread -Icsrc/include -Icsrc -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -o "$out/fuzz_intern" \
    tests/c/fuzz_intern.c csrc/base/*.c csrc/alloc/*.c csrc/heap/*.c csrc/wrap/*.c csrc/structures/*.c
log=$out/log_intern
mkdir -p "$out/found_intern"
if ! "$out/fuzz_intern" -max_total_time="$((seconds / 4 + 1))" -max_len=600 -len_control=20 -timeout=20 \
    -print_final_stats=1 -artifact_prefix="$out/intern-" "$out/found_intern" >"$log" 2>&1; then
    grep -v '^#[0-9]*[[:space:]]*\(NEW\|REDUCE\|pulse\)' "$log" >&2
    exit 1
fi
tell

if [ "${FUZZ_KEEP:-0}" = 1 ]; then
    # by edges alone: counts of how often one was passed would keep ten times as many
    rm -rf "$out/kept"
    mkdir "$out/kept"
    "$out/fuzz" -set_cover_merge=1 -use_counters=0 -max_len=600 "$out/kept" "$corpus" "$out/found" >"$out/merge.log" 2>&1
    rm -f "$corpus"/*
    cp "$out/kept"/* "$corpus"/
    echo "$corpus: $(ls "$corpus" | wc -l) programs, $(du -cb "$corpus"/* | tail -1 | cut -f1) bytes"
fi
