#!/bin/bash
# Prepares this machine and this clone: Debian packages, .venv with the pinned dependencies, CRIU in its own prefix.
#
# For root on Debian 12. Every step looks first and does only what is missing, so that a second run takes seconds.
# Details go to .setup.log; a failure is one sentence that says what to do.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly log=$PWD/.setup.log
readonly venv=$PWD/.venv
readonly needed_kib=$((6 * 1024 * 1024))
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { echo "set-up failed: $1" >&2; exit 1; }

step() { printf '[%s/5] %s\n' "$1" "$2"; }

# Runs a command with its output in the log; on failure shows the log's last lines, then the sentence $1.
logged() {
    local sentence=$1
    shift
    if ! "$@" >>"$log" 2>&1; then
        tail -n 8 "$log" >&2
        fail "$sentence (details: $log)"
    fi
}

# The kernel has, or can load, file system or device driver $1.
kernel_has() { grep -qw "$1" /proc/filesystems || modprobe -q "$1" 2>/dev/null || [ -e "/sys/module/$1" ]; }

check_machine() {
    [ "$(id -u)" = 0 ] || fail "run it as root: containers, mounts and CRIU need it"
    : >"$log"
    [ -x /usr/bin/apt-get ] || fail "apt-get is missing: use a Debian 12 machine"
    local name
    for name in xfs overlay; do
        kernel_has "$name" || fail "this kernel has no $name file system: use a kernel that has it, such as Debian's own"
    done
    [ -e /dev/loop-control ] || modprobe -q loop || fail "this kernel has no loop devices: load the loop module"
    local free
    free=$(df --output=avail -k . | tail -n1)
    [ "$free" -ge "$needed_kib" ] || fail "only $((free / 1024)) MiB are free below $PWD: make room for 6 GiB"
}

# Debian packages whose programs are not here yet. By program, because a runc that came with Docker is as good,
# and Debian's would replace it.
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
patchelf patchelf
bowtie2 bowtie2
/usr/share/doc/bowtie2/examples bowtie2-examples
/usr/bin/python3 python3
END
    find_python >/dev/null || echo python3-venv
}

install_packages() {
    local packages
    packages=$(missing_packages | sort -u)
    [ -n "$packages" ] || return 0
    echo "      installing" $packages
    apt-get -q update >>"$log" 2>&1 || true # A broken source that has nothing to do with us must not stop us.
    # --no-remove: nothing that is on this machine may go away for our sake.
    logged "apt-get could not install $(echo $packages): check the network and the apt sources" \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends --no-remove $packages
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
    local python stamp
    python=$(find_python) || fail "Python 3.11 or newer is needed: use Debian 12, or put a newer python3 on PATH"
    stamp=$(echo "$PWD" "$python" "$("$python" -V)" "$(cat requirements-dev.txt pyproject.toml | sha256sum)")
    [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
    echo "      $("$python" -V), $(grep -c '^[a-z].*==' requirements-dev.txt) packages"
    logged "the virtual environment could not be made: remove .venv and run again" "$python" -m venv --clear "$venv"
    logged "pip could not install the dependencies: check the network and the package index" \
        "$venv/bin/pip" install --quiet --progress-bar off --require-hashes -r requirements-dev.txt
    # In a second step, because pip cannot mix hashes with an editable project.
    logged "pip could not install the project itself" \
        "$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
    echo "$stamp" >"$venv/.stamp"
}

install_criu() {
    local answer
    answer=$(scripts/criu_prefix.sh 2> >(tee -a "$log" | grep --line-buffered '^warning:' >&2)) ||
        fail "$(tail -n1 "$log")"
    echo "      CRIU $answer in /opt/perdure/criu"
}

step 1 "Checking this machine"
check_machine
step 2 "Debian packages"
install_packages
step 3 "Python environment in .venv"
install_venv
step 4 "CRIU"
install_criu
step 5 "Ready: $(.venv/bin/python -V), $(runc --version | head -n1), CRIU in /opt/perdure/criu/bin/criu"
