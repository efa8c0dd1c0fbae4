#!/bin/sh
# The tests of the core in C. PYTHON: one that has compactrnn.
#   corrupt   damaged files, under the address and undefined-behaviour sanitizers
#   threads   one model in many threads, under the thread sanitizer
#   quiet     what must not happen in a step: allocations, system calls, ...
#   golden    the same bits on every instruction set, Arm's by emulation, and the same as ever
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
flags="-std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno -fno-trapping-math -I$here/.."
golden="$here/../../tests/golden"

build() { # compiler, name, more flags
    compiler=$1 name=$2
    shift 2
    # shellcheck disable=SC2086
    "$compiler" $flags "$@" "$here/${name%-*}.c" "$here"/../cr_*.c -lm -lpthread -o "$folder/$name"
}

compare() { # name of the program, how to run it
    name=$1
    shift
    "$@" "$folder/$name" "$golden"/*.crnn >"$folder/$name.txt"
    awk 'NR == FNR { wanted[$1] = $2; next } wanted[$1] != $3 { print "not as ever: " $0; bad = 1 } { n++; isa[$2] = 1 }
         END { for (i in isa) list = list " " i; print n " checksums as ever:" list; exit bad || !n }' \
        "$golden/checksums.txt" "$folder/$name.txt"
}

cc=${CC:-cc}
build "$cc" corrupt -fsanitize=address,undefined -fno-sanitize-recover=all
build "$cc" threads -fsanitize=thread
build "$cc" quiet
build "$cc" golden
compare golden
"$folder/quiet" "$golden"/*.crnn
"$folder/threads" "$golden"/*.crnn

arm=aarch64-linux-gnu-gcc
if command -v "$arm" >/dev/null && command -v qemu-aarch64 >/dev/null; then
    build "$arm" golden-arm -static
    compare golden-arm qemu-aarch64
else
    echo "Arm is skipped: it needs $arm and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
fi

"${PYTHON:-python}" "$here/make_models.py" "$folder/models"
"$folder/corrupt" "$folder"/models/*.crnn
