#!/bin/sh
# Builds each guest's module from its source: kv/kv.c to kv/kv.wasm, and so on. `--check` builds into a temporary folder and
# compares with the committed files instead.
# Needs Debian's clang, lld and wasi-libc in the versions that COMPILER names (other versions give other bytes), and cargo, which fetches
# SQLite's source: the amalgamation in the crate that sql/sqlite/Cargo.lock names, with its digest.
set -eu
cd "$(dirname "$0")"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
check=
case "${1:-}" in
    "") ;;
    --check) check=yes ;;
    *) echo "usage: build.sh [--check]" >&2; exit 2 ;;
esac

versions=$(dpkg-query -W -f '${Package} ${Version}\n' clang-14 lld-14 wasi-libc)
if [ "$versions" != "$(cat COMPILER)" ]; then
    printf 'warning: other compilers than COMPILER names, so the bytes may differ:\n%s\n' "$versions" >&2
fi

header=$PWD/../../node/src/cli/templates/c
start=/usr/lib/wasm32-wasi/crt1-reactor.o

# compile FLAG...: -nostdlib, so that compiler-rt for wasm32 need not be installed; what is linked is named.
compile() {
    clang-14 --target=wasm32-wasi --sysroot=/usr -mexec-model=reactor -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fno-ident \
        -ffile-prefix-map="$PWD"=. -I"$header" -nostdlib "$@"
}

# guest GUEST FLAG...
guest() {
    name=$1
    shift
    out=$name.wasm
    [ -z "$check" ] || out=$folder/$name.wasm
    (cd "$name" && compile -O2 "$@" -Wl,--strip-all -Wl,--stack-first -o "$out")
    if [ -n "$check" ]; then
        cmp "$out" "$name/$name.wasm" || { echo "$name.wasm is not what $name.c builds to; run tests/guests/build.sh" >&2; exit 1; }
        echo "$name.wasm is what $name.c builds to"
    fi
}

# SQLite without files, threads and extensions; -w: its warnings are its authors'.
sqlite() {
    sqlite=$(cd sql/sqlite && cargo fetch --locked --quiet && cargo metadata --locked --offline --format-version 1 |
        grep -o '"manifest_path":"[^"]*libsqlite3-sys-[^"]*/Cargo.toml"' | cut -d '"' -f 4)
    sqlite=$(dirname "$sqlite")/sqlite3
    compile -Os -w -ffile-prefix-map="$sqlite"=. -c "$sqlite/sqlite3.c" -o "$folder/sqlite3.o" \
        -DSQLITE_OS_OTHER=1 -DSQLITE_THREADSAFE=0 -DSQLITE_TEMP_STORE=3 -DSQLITE_MAX_MMAP_SIZE=0 -DSQLITE_OMIT_WAL \
        -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_LOCALTIME -DSQLITE_OMIT_DEPRECATED -DSQLITE_OMIT_SHARED_CACHE \
        -DSQLITE_DEFAULT_FOREIGN_KEYS=1 -DSQLITE_DQS=0 -DSQLITE_ENABLE_MATH_FUNCTIONS
}

guest kv "$start" kv.c -lc -Wl,-z,stack-size=65536
guest tiny tiny.c -Wl,--no-entry -Wl,-z,stack-size=4096 -Wl,--initial-memory=65536
sqlite
guest sql "$start" -isystem "$sqlite" sql.c vfs.c "$folder/sqlite3.o" -lc -Wl,-z,stack-size=262144
guest todo "$start" todo.c -lc -Wl,-z,stack-size=65536
