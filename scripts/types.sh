#!/bin/bash
# Checks the types of everything with mypy. What mypy found out about libraries and unchanged files is kept for the next
# fresh clone on this machine; mypy compares checksums before it believes it.
set -euo pipefail

cd "$(dirname "$0")/.."
kept=${PERDURE_CACHE:-/var/cache/perdure}/mypy
if [ ! -e .mypy_cache ] && [ -d "$kept" ]; then
    cp -r "$kept" .mypy_cache 2>/dev/null || rm -rf .mypy_cache
fi
.venv/bin/mypy
if [ -w "$(dirname "$kept")" ]; then
    draft=$(mktemp -d "$kept.XXXXXX")
    cp -r .mypy_cache/. "$draft"
    chmod 755 "$draft"
    rm -rf "$kept.old"
    if [ -e "$kept" ]; then mv -T "$kept" "$kept.old"; fi
    mv -T "$draft" "$kept" || rm -rf "$draft" # another clone was faster
    rm -rf "$kept.old"
fi
