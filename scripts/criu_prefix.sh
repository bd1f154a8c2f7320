#!/bin/bash
# Puts CRIU into a prefix of its own and leaves PREFIX/bin/criu: what runc and the agent call.
#
#   criu_prefix.sh [PREFIX]        (default /opt/perdure/criu)     prints the version
#
# Debian 12's CRIU (3.17) and trixie's (4.1) fail on newer kernels, so CRIU and every library it needs come from
# Debian sid, unpacked beside the system: dpkg never hears of them and no host package changes. The archive's address
# is that of the machine's own apt configuration. A CRIU on PATH that is new enough and works is used instead.
#
# PREFIX/bin/criu is a small script in both cases: it puts PREFIX/libexec first on PATH, where `gzip` is `cat`.
# CRIU pipes every tmpfs (/dev/shm) through `tar --gzip`; compressing took 1.0 s of a 1.4 s dump. Dump and restore
# must agree on it, so nobody should call CRIU in any other way.
set -euo pipefail
shopt -s inherit_errexit

readonly minimum=4.2
readonly prefix=${1:-/opt/perdure/criu}
readonly cache=${PERDURE_CACHE:-/var/cache/perdure}/criu
here=$(cd "$(dirname "$0")/.." && pwd)
tested=$(<"$here/deploy/criu.version")

fail() { echo "$1" >&2; exit 1; }

version_of() { "$1" --version 2>/dev/null | sed -n 's/^Version: //p'; }

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }

# The CRIU at $1 is new enough and this kernel has what it needs.
usable() {
    local version
    version=$(version_of "$1") && [ -n "$version" ] && at_least "$version" "$minimum" && "$1" check >/dev/null 2>&1
}

# Site of the Debian archive that this machine already uses, e.g. the first word after "deb" in sources.list.
archive_site() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' "Codename: $codename" | sort -u | head -n1
}

# Downloads CRIU and its libraries into $cache/archives, resolved as if nothing at all were installed here.
download() {
    local site keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=""
    site=$(archive_site)
    if [ -z "$site" ]; then
        apt-get -q update || true
        site=$(archive_site)
    fi
    [ -n "$site" ] || fail "no Debian archive in this machine's apt configuration: add one to /etc/apt/sources.list and run again"
    [ -e "$keyring" ] && signed="[signed-by=$keyring] "
    mkdir -p "$cache/lists/partial" "$cache/archives/partial"
    echo "deb ${signed}${site} sid main" >"$cache/sources.list"
    : >"$cache/status"
    local apt=(apt-get -q -y -o "Dir::Etc::sourcelist=$cache/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::State=$cache" -o "Dir::State::status=$cache/status" -o "Dir::Cache=$cache"
        -o "APT::Sandbox::User=root" -o "APT::Install-Recommends=false")
    "${apt[@]}" update && "${apt[@]}" --download-only install criu && "${apt[@]}" autoclean
}

# Unpacks the cached packages into PREFIX/<version> and lets the binary find its own libraries; prints its path.
unpack() {
    local deb version root loader libraries
    deb=$(ls "$cache"/archives/criu_*.deb | sort -V | tail -n1)
    version=$(dpkg-deb -f "$deb" Version)
    root=$prefix/$version
    if [ ! -e "$root" ]; then # Never touched again once there: it may be freezing a job this very moment.
        rm -rf "$root.partial"
        mkdir -p "$root.partial"
        for deb in "$cache"/archives/*.deb; do
            dpkg-deb -x "$deb" "$root.partial"
        done
        loader=$(cd "$root.partial" && find usr -name "$(basename "$(patchelf --print-interpreter usr/sbin/criu)")" | head -n1)
        libraries=$(cd "$root.partial" && dirname "$(find usr/lib -name libc.so.6 | head -n1)")
        # The RPATH of the program (not RUNPATH) also serves the libraries of its libraries.
        patchelf --set-interpreter "$root/$loader" --force-rpath --set-rpath "$root/$libraries" \
            "$root.partial/usr/sbin/criu"
        mv "$root.partial" "$root"
    fi
    echo "$root/usr/sbin/criu"
}

# Writes PREFIX/bin/criu, which runs the CRIU at $1; by rename, because another stack may be starting it right now.
write_launcher() {
    mkdir -p "$prefix/bin" "$prefix/libexec"
    printf '#!/bin/sh\nexec cat\n' >"$prefix/libexec/gzip.new"
    printf '#!/bin/sh\nPATH=%s:$PATH\nexport PATH\nexec %s "$@"\n' "$prefix/libexec" "$1" >"$prefix/bin/criu.new"
    chmod 755 "$prefix/libexec/gzip.new" "$prefix/bin/criu.new"
    mv "$prefix/libexec/gzip.new" "$prefix/libexec/gzip"
    mv "$prefix/bin/criu.new" "$prefix/bin/criu"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

if ! usable "$prefix/bin/criu"; then
    host=$(PATH=${PATH//$prefix\/bin:/} command -v criu || true)
    if [ -n "$host" ] && usable "$host"; then
        write_launcher "$host"
    else
        download >&2 || ls "$cache"/archives/criu_*.deb >/dev/null 2>&1 ||
            fail "CRIU could not be downloaded from Debian sid: check the network and apt, or put CRIU >= $minimum on PATH"
        criu=$(unpack)
        problem=$("$criu" check 2>&1) ||
            fail "this machine cannot run CRIU ($(head -n1 <<<"$problem")): use a VM with Debian's kernel, as root with all capabilities"
        write_launcher "$criu"
    fi
fi

version=$(version_of "$prefix/bin/criu")
[ "$version" = "$tested" ] || version="$version (warning: tested with $tested)"
echo "$version"
