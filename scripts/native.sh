#!/bin/bash
# Compiles the loop of shared-page checkpoints: perdure/image/pages/pages.c into _pages.so beside it, where it is older.
#
#   native.sh            the library; gcc and xxhash.h are needed
#   native.sh fuzz       the same with sanitizers in build/, fed by tests/unit/test_pages.py with what it makes up
#
# It needs nothing but libc, so it runs wherever the agent's Python does. Without it the agent works, slower.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly source=perdure/image/pages/pages.c
readonly flags=(-std=c11 -O3 -fPIC -shared -Wall -Wextra -Werror -Wno-unused-function)

case "${1:-}" in
    fuzz)
        mkdir -p build
        gcc "${flags[@]}" -g -fsanitize=address,undefined -fno-sanitize-recover=all -o build/_pages-sanitized.so $source
        ;;
    "")
        target=${source%/*}/_pages.so
        [ ! "$target" -nt "$source" ] || [ ! "$target" -nt "$0" ] || exit 0
        gcc "${flags[@]}" -o "$target.new" $source
        mv "$target.new" "$target"
        ;;
esac
