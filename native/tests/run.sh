#!/bin/sh
# Build the core with sanitizers and throw damaged model files at it. PYTHON: one that has compactrnn.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python}" "$here/make_models.py" "$folder/models"
"${CC:-cc}" -std=c11 -D_POSIX_C_SOURCE=200112L -O2 -g -Wall -Wextra -Werror -ffp-contract=off \
    -fno-math-errno -fno-trapping-math -fsanitize=address,undefined -fno-sanitize-recover=all -I"$here/.." \
    "$here/corrupt.c" "$here"/../cr_*.c -o "$folder/corrupt"
"$folder/corrupt" "$folder"/models/*.crnn
