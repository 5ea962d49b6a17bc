#!/bin/sh
# Builds each guest's module from its source: kv/kv.c to kv/kv.wasm, and so on. `--check` builds into a temporary folder and
# compares with the committed files instead.
# Needs Debian's clang, lld and wasi-libc in the versions that COMPILER names; other versions give other bytes.
set -eu
cd "$(dirname "$0")"

check=
case "${1:-}" in
    "") ;;
    --check) check=yes; folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT ;;
    *) echo "usage: build.sh [--check]" >&2; exit 2 ;;
esac

versions=$(dpkg-query -W -f '${Package} ${Version}\n' clang-14 lld-14 wasi-libc)
if [ "$versions" != "$(cat COMPILER)" ]; then
    printf 'warning: other compilers than COMPILER names, so the bytes may differ:\n%s\n' "$versions" >&2
fi

# guest GUEST FLAG...: -nostdlib, so that compiler-rt for wasm32 need not be installed; what is linked is named.
guest() {
    name=$1
    shift
    out=$name.wasm
    [ -z "$check" ] || out=$folder/$name.wasm
    (cd "$name" && clang-14 --target=wasm32-wasi --sysroot=/usr -mexec-model=reactor -std=c11 -D_GNU_SOURCE -O2 \
        -Wall -Wextra -Werror -fno-ident -ffile-prefix-map="$PWD"=. -nostdlib "$@" -Wl,--strip-all -Wl,--stack-first -o "$out")
    if [ -n "$check" ]; then
        cmp "$out" "$name/$name.wasm" || { echo "$name.wasm is not what $name.c builds to; run tests/guests/build.sh" >&2; exit 1; }
        echo "$name.wasm is what $name.c builds to"
    fi
}

guest kv /usr/lib/wasm32-wasi/crt1-reactor.o kv.c -lc -Wl,-z,stack-size=65536
guest tiny tiny.c -Wl,--no-entry -Wl,-z,stack-size=4096 -Wl,--initial-memory=65536
