#!/bin/sh
# Builds kv.wasm from kv.c. `--check` builds into a temporary folder and compares with the committed file instead.
# Needs Debian's clang, lld and wasi-libc in the versions that COMPILER names; other versions give other bytes.
set -eu
cd "$(dirname "$0")"

out=kv.wasm
if [ "${1:-}" = --check ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    out=$folder/kv.wasm
elif [ $# -gt 0 ]; then
    echo "usage: build.sh [--check]" >&2
    exit 2
fi

versions=$(dpkg-query -W -f '${Package} ${Version}\n' clang-14 lld-14 wasi-libc)
if [ "$versions" != "$(cat COMPILER)" ]; then
    printf 'warning: other compilers than COMPILER names, so the bytes may differ:\n%s\n' "$versions" >&2
fi

# -nostdlib: the start file and libc are named here, so that compiler-rt for wasm32 need not be installed.
clang-14 --target=wasm32-wasi --sysroot=/usr -mexec-model=reactor -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror \
    -fno-ident -ffile-prefix-map="$PWD"=. -nostdlib \
    /usr/lib/wasm32-wasi/crt1-reactor.o kv.c -lc \
    -Wl,--strip-all -Wl,-z,stack-size=65536 -Wl,--stack-first \
    -o "$out"

if [ "$out" != kv.wasm ]; then
    cmp "$out" kv.wasm || { echo "kv.wasm is not what kv.c builds to; run tests/guests/kv/build.sh" >&2; exit 1; }
    echo "kv.wasm is what kv.c builds to"
fi
