#!/bin/sh
# The tests of the core in C, with GCC and with Clang. PYTHON: one that has compactrnn.
#   golden    the same bits from every compiler and instruction set, Arm's by emulation, and the same as ever
#   quiet     what must not happen in a step: allocations, system calls, ...
#   threads   one model in many threads, under the thread sanitizer
#   corrupt   damaged files, under the address and undefined-behavior sanitizers; CORRUPT_EVERY=1 tries every damage,
#             otherwise each sixteenth
#   fuzz      changed files, under the same; FUZZ_SECONDS (60) or FUZZ_RUNS say for how long
# and the core compiles for WebAssembly, and refuses to be compiled so that it would round differently. What cannot run here
# is skipped, with CI=true an error. "run.sh fuzz" only fuzzes; "run.sh coverage" reports the lines of the core that the
# inputs found so far go through.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
golden=$root/tests/golden
out=${OUT:-$root/build/native-tests}
jobs=$(nproc 2>/dev/null || echo 2)
mkdir -p "$out"

make_all() {
    make --silent -j"$jobs" -f "$here/Makefile" OUT="$out" "$@"
}

have() { # what needs it, the Debian packages that bring it, a command that succeeds where it is there
    if sh -c "$3" >/dev/null 2>&1; then return 0; fi
    echo "$1: skipped, it needs the Debian packages $2"
    if [ "${CI:-}" = true ]; then
        echo "with CI=true nothing may be skipped"
        exit 1
    fi
    return 1
}

links() { # a compiler and its flags: whether it makes programs
    echo "echo '#include <math.h>
int main(void) { return 0; }' | $* -x c - -o $out/links"
}

compare() { # a way to compile, how to run what it makes
    way=$1
    shift
    "$@" "$out/$way/golden" "$golden"/*.crnn >"$out/$way/golden.txt"
    awk -v way="$way" 'NR == FNR { wanted[$1] = $2; next }
         wanted[$1] != $3 { print "not as ever: " $0; bad = 1 } { n++; isa[$2] = 1 }
         END { for (i in isa) list = list " " i; print way ": " n " checksums as ever:" list; exit bad || !n }' \
        "$golden/checksums.txt" "$out/$way/golden.txt"
}

show_found() { # a file that the fuzzer found, as text, so that the log of a machine that is gone is enough to run it again
    "$out/clang-sanitize/fuzz" "$1" 2>&1 | grep -vE '^ +#|^INFO|Running' | head -3 || true
    echo "base64 -d <<END | gunzip >found.crnn"
    gzip -9nc "$1" | base64 -w 120
    echo END
}

fuzz() {
    models
    mkdir -p "$out/corpus" "$out/seeds"
    cp "$out"/models/*.crnn "$out/seeds"
    find "$golden" -name '*.crnn' -size -33k -exec cp {} "$out/seeds" \;
    limit=-max_total_time=${FUZZ_SECONDS:-60}
    if [ -n "${FUZZ_RUNS:-}" ]; then limit=-runs=$FUZZ_RUNS; fi
    echo "fuzz: $limit, log in $out/fuzz.log"
    rm -f "$out"/crash-* "$out"/timeout-* "$out"/oom-*
    "$out/clang-sanitize/fuzz" "$limit" -timeout=60 -rss_limit_mb=1024 -max_len=16384 -mutate_depth=2 -entropic=0 \
        -artifact_prefix="$out/" -print_final_stats=1 "$out/corpus" "$out/seeds" >"$out/fuzz.log" 2>&1 || {
        tail -40 "$out/fuzz.log"
        for found in "$out"/crash-* "$out"/timeout-* "$out"/oom-*; do
            if [ -f "$found" ]; then show_found "$found"; fi
        done
        exit 1
    }
    grep -E 'DONE|number_of_executed|slowest|peak_rss' "$out/fuzz.log"
}

models() {
    rm -rf "$out/models"
    "${PYTHON:-python}" "$here/make_models.py" "$out/models"
}

coverage() { # of the inputs in some folders
    make_all "$out/clang-coverage/fuzz"
    LLVM_PROFILE_FILE=$out/coverage.raw "$out/clang-coverage/fuzz" -runs=0 "$@" 2>/dev/null
    llvm-profdata-14 merge -o "$out/coverage" "$out/coverage.raw"
    llvm-cov-14 report "$out/clang-coverage/fuzz" -instr-profile="$out/coverage" "$here"/../cr_*.c "$here"/../cr_*.h
}

clang=""
if have "Clang's tests" "clang libclang-rt-14-dev" "command -v ${CLANG:-clang} && $(links "${CLANG:-clang}" -fsanitize=address)"; then
    clang=yes
fi
if [ "${1:-}" = coverage ]; then
    coverage "$out/corpus" "$out/seeds"
    exit
fi
if [ "${1:-}" = fuzz ]; then
    if [ -z "$clang" ]; then exit 1; fi
    make_all "$out/clang-sanitize/fuzz"
    fuzz
    exit
fi

programs="$out/gcc/golden $out/gcc/quiet $out/gcc-threads/threads $out/gcc-sanitize/corrupt"
ways="gcc"
if [ "$clang" ]; then
    programs="$programs $out/clang/golden $out/clang/quiet $out/clang-sanitize/corrupt $out/clang-sanitize/fuzz"
    ways="$ways clang"
    if have "WebAssembly" "wasi-libc" "$(links "${CLANG:-clang}" --target=wasm32-wasi -c)"; then
        programs="$programs $out/clang-wasm/core"
    fi
    if have "32-bit x86" "libc6-dev-i386 lib32gcc-12-dev" "$(links "${CLANG:-clang}" -m32) -lm"; then
        programs="$programs $out/clang-i386/golden"
        ways="$ways clang-i386"
    fi
fi
arm_packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
arm=""
if have "Arm" "$arm_packages" "command -v qemu-aarch64 && $(links "${ARM_GCC:-aarch64-linux-gnu-gcc}" -static)"; then
    arm="gcc-arm"
    if [ "$clang" ] && have "Arm by Clang" "lld-14 $arm_packages" \
        "$(links "${CLANG:-clang}" --target=aarch64-linux-gnu -fuse-ld=lld -static)"; then arm="$arm clang-arm"; fi
    for way in $arm; do programs="$programs $out/$way/golden"; done
fi

# Builds that would compute other numbers: refused by the compiler where a macro tells, else by cr_open.
not_compiled() {
    if "$@" -std=c11 -fsyntax-only -I"$here/.." "$here"/../cr_*.c 2>"$out/refused.txt"; then
        echo "not refused: $*"
        exit 1
    fi
    grep -q '#error' "$out/refused.txt" && echo "refused: $*"
}
not_opened() {
    "$@" -std=c11 -D_GNU_SOURCE -I"$here/.." "$here/golden.c" "$here"/../cr_*.c -lm -o "$out/refused"
    if "$out/refused" "$golden"/mgu-int8.crnn 2>"$out/refused.txt"; then
        echo "not refused: $*"
        exit 1
    fi
    grep -q 'cr_open' "$out/refused.txt" && echo "refused: $*"
}

# shellcheck disable=SC2086
make_all $programs
not_compiled "${GCC:-gcc}" -ffast-math
case $ways in *i386*)
    not_compiled "${CLANG:-clang}" -m32 -mno-sse
    if grep -qw fma /proc/cpuinfo; then
        not_opened "${CLANG:-clang}" -m32 -msse2 -mfpmath=sse -mfma -ffp-contract=fast -O1
    fi
    ;;
esac
for way in $ways; do compare "$way"; done
for way in $arm; do compare "$way" qemu-aarch64; done
"$out/gcc/quiet" "$golden"/*.crnn
if [ "$clang" ]; then "$out/clang/quiet" "$golden"/*.crnn; fi
"$out/gcc-threads/threads" "$golden"/*.crnn
models
"$out/gcc-sanitize/corrupt" "$out"/models/*.crnn >"$out/corrupt-gcc.txt" 2>&1 &
other=$!
if [ "$clang" ]; then "$out/clang-sanitize/corrupt" "$out"/models/*.crnn | tail -1; fi
wait "$other" || {
    tail -20 "$out/corrupt-gcc.txt"
    exit 1
}
tail -1 "$out/corrupt-gcc.txt"
if [ "$clang" ]; then fuzz; fi
