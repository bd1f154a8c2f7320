#!/bin/bash
# Prepares this machine and this clone: Debian packages, CRIU in its own prefix, .venv with the pinned dependencies, the
# console built for browsers.
#
# For root on Debian 12. Every step looks first and does only what is missing, so that a second run takes seconds.
# Details go to .setup.log; a failure is one sentence that says what to do.
set -euo pipefail

cd "$(dirname "$0")/.."
log=$PWD/.setup.log
readonly venv=$PWD/.venv
readonly criu_prefix=/opt/perdure/criu # perdure/settings.py names the same folder
readonly needed_kib=$((6 * 1024 * 1024))
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1
export PATH=$PATH:/usr/sbin:/sbin # `su` without a login shell leaves them out

fail() { echo "set-up failed: $1" >&2; exit 1; }

step() { printf '[%s/7] %s\n' "$1" "$2"; }

# Runs a command with its output in the log; on failure shows the log's last lines, then the sentence $1.
logged() {
    local sentence=$1
    shift
    if ! "$@" >>"$log" 2>&1; then
        tail -n 8 "$log" >&2
        fail "$sentence (details: $log)"
    fi
}

check_machine() {
    [ -x /usr/bin/apt-get ] || fail "apt-get is missing: use a Debian 12 machine"
    local free
    free=$(df --output=avail -k . | tail -n1)
    [ "$free" -ge "$needed_kib" ] || fail "only $((free / 1024)) MiB are free below $PWD: make room for 6 GiB"
}

# Debian packages whose programs are not here yet. By program, because a runc that came with Docker is as good,
# and Debian's would replace it.  From gcc on: to build and run the tests of CRIU and runc (tests/conformance).
# iptables: CRIU holds TCP connections still with it during a dump (default network-lock).
missing_packages() {
    local program package
    while read -r program package; do
        command -v "$program" >/dev/null || [ -e "$program" ] || echo "$package"
    done <<'END'
runc runc
mkfs.xfs xfsprogs
ip iproute2
nsenter util-linux
losetup mount
modprobe kmod
iptables-restore iptables
nft nftables
/usr/sbin/dockerd docker.io
/usr/bin/docker-compose docker-compose
/usr/bin/tini-static tini
fusermount3 fuse3
debootstrap debootstrap
/usr/lib/postgresql/15/bin/postgres postgresql-15
patchelf patchelf
bowtie2 bowtie2
/usr/share/doc/bowtie2/examples bowtie2-examples
/usr/bin/python3 python3
gcc gcc
/usr/include/stdio.h libc6-dev
/usr/include/libaio.h libaio-dev
/usr/include/sys/capability.h libcap-dev
/usr/include/xxhash.h libxxhash-dev
bats bats
busybox busybox-static
jq jq
minisign minisign
openssl openssl
curl curl
/usr/bin/aws awscli
gawk gawk
/usr/bin/chromium chromium
/usr/share/fonts/truetype/dejavu fonts-dejavu-core
END
    find_python >/dev/null || echo python3-venv
}

install_packages() {
    local packages
    packages=$(missing_packages | sort -u)
    [ -n "$packages" ] || return 0
    echo "      installing (some minutes the first time):" $packages
    if [[ $packages == *postgresql* && ! -e /etc/postgresql-common ]]; then
        # Tests start servers of their own: no database server shall begin to run here because of us.
        mkdir /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    apt-get -q update >>"$log" 2>&1 || true # A broken source that has nothing to do with us must not stop us.
    # --no-remove: nothing that is on this machine may go away for our sake.
    logged "apt-get could not install $(echo $packages): check the network and the apt sources" \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends --no-remove $packages
    packages=$(missing_packages | grep -v python3-venv | sort -u || true)
    [ -z "$packages" ] || fail "programs of $(echo $packages) are still missing from PATH: reinstall these packages"
}

# Volumes are XFS images on loop devices, root layers are overlays, and CRIU needs a good deal of the kernel.
check_kernel() {
    local name
    for name in xfs overlay; do
        grep -qw "$name" /proc/filesystems || modprobe -q "$name" ||
            fail "this kernel has no $name file system: use a kernel that has it, such as Debian's own"
    done
    [ -e /dev/loop-control ] || modprobe -q loop || fail "this kernel has no loop devices: use Debian's own kernel"
}

install_criu() {
    local version
    version=$(scripts/criu_prefix.sh "$criu_prefix" 2>>"$log") || fail "$(tail -n1 "$log") (details: $log)"
    echo "      CRIU $version in $criu_prefix"
}

# What requirements-dev.txt pins, by uv, which it pins too: in a fifth of pip's time. Where uv cannot (pip may be configured for
# an index of one's own, which uv does not read), pip does it.
install_pinned() {
    local pip=("$venv/bin/pip" install --quiet --progress-bar off --no-compile --require-hashes -r)
    if "${pip[@]}" <(awk '/^[a-z]/ { found = /^uv==/ } found' requirements-dev.txt) >>"$log" 2>&1 &&
        "$venv/bin/uv" pip install --quiet --python "$venv" --require-hashes -r requirements-dev.txt >>"$log" 2>&1; then return; fi
    logged "pip could not install the dependencies: check the network and the package index" "${pip[@]}" requirements-dev.txt
}

# Prints the first Python that is new enough and can make virtual environments.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" /usr/bin/python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return 0
        fi
    done
    return 1
}

install_venv() {
    local python made_with stamp
    python=$(find_python) || fail "Python 3.11 or newer with venv is needed: use Debian 12, or put such a python3 on PATH"
    made_with="$PWD $python $("$python" -V)"
    stamp="$made_with $(cat requirements-dev.txt pyproject.toml | sha256sum)"
    [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
    echo "      $("$python" -V), $(grep -c '^[a-z].*==' requirements-dev.txt) packages, about a minute"
    # New pins go into the environment as it is, because a running stack may be using it.
    if [[ "$(cat "$venv/.stamp" 2>/dev/null)" != "$made_with "* ]]; then
        logged "the virtual environment could not be made: remove .venv and run again" "$python" -m venv --clear "$venv"
    fi
    begin_console
    install_pinned
    # In a second step, because pip cannot mix hashes with an editable project.
    logged "pip could not install the project itself" \
        "$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
    # Twice as fast as by pip. A package's own test data or templates may not compile; they are never imported.
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || true
    echo "$stamp" >"$venv/.stamp"
}

build_native() {
    logged "the loop of shared-page checkpoints could not be compiled" bash scripts/native.sh
}

# In the background, beside the packages of .venv, with a log of its own. Without a Node on this machine it needs .venv's pip.
begin_console() {
    scripts/console.sh stale || return 0
    (
        log=$PWD/.setup-console.log
        : >"$log"
        logged "the console could not be built: check the network and npm's registry" scripts/console.sh
    ) 8>&- &
    console=$!
    trap 'kill "$console" 2>/dev/null || true' EXIT
}

end_console() {
    [ -n "${console:-}" ] || begin_console
    [ -n "${console:-}" ] || return 0
    echo "      from console/, about a minute"
    wait "$console" || exit 1
    trap - EXIT
}

[ "$(id -u)" = 0 ] || fail "run it as root: containers, mounts and CRIU need it"
exec 8>>"$log"
flock 8 # Two commands of one clone may both begin with set-up.
: >"$log"

step 1 "Checking this machine"
check_machine
step 2 "Debian packages"
install_packages
step 3 "Kernel and CRIU"
check_kernel
install_criu
step 4 "Python environment in .venv"
install_venv
step 5 "Loop of shared-page checkpoints, compiled"
build_native
step 6 "Console in api/static"
end_console
step 7 "Ready: $("$venv/bin/python" -V), $(runc --version | head -n1)"
