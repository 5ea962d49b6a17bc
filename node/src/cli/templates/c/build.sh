#!/bin/sh
# Builds {name}.wasm. On Debian and Ubuntu: apt install clang lld wasi-libc. Elsewhere, with the WASI SDK:
# CC=/opt/wasi-sdk/bin/clang ./build.sh
set -eu
cd "$(dirname "$0")"

if [ -n "${CC:-}" ]; then
    set -- "$CC"
else
    # Debian's clang knows neither where its WASI libraries are, nor the compiler's own for wasm32, which C as below can do without.
    set -- clang --sysroot=/usr -nostdlib /usr/lib/wasm32-wasi/crt1-reactor.o
fi
"$@" --target=wasm32-wasi -mexec-model=reactor -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra {name}.c -lc \
    -Wl,--strip-all -Wl,--stack-first -o {name}.wasm
