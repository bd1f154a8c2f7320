#!/bin/sh
# Certificates for the gate before Temporal (temporal-gate.cfg): an authority of your own, one certificate for the gate,
# one for the instances. For a machine with openssl.
#
#   sh deploy/docker/temporal-certificates.sh FOLDER HOST [HOST ...]      HOST: a name or an IPv4 address of the gate
#
# The first HOST is the one that instances are told. FOLDER is made, for its owner alone. What is there already is kept, but
# for a gate's certificate that lacks one of these hosts: that is made anew, as long as the authority's key is there. In it:
#   authority.crt authority.key   whoever has the key can make instances of his own: keep it off the server
#   gate.pem                      certificate and key of the gate
#   instances.crt instances.key   what an instance shows
#   temporal.toml                 Temporal's configuration for instances: perdure-install --temporal-config
set -eu
umask 077
[ $# -ge 2 ] || { sed -n '5s/^# *//p' "$0" >&2; exit 2; }
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
days=3650

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

signed() { # NAME EXTENSIONS: NAME.crt for NAME.key
    openssl req -new -key "$1.key" -subj "/CN=perdure $1" -out "$1.csr"
    printf '%s\n' "basicConstraints=critical,CA:false" "$2" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA authority.crt -CAkey authority.key -CAcreateserial -days "$days" -sha256 \
        -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm -f "$1.csr" "$1.ext"
}

if [ ! -e authority.crt ]; then
    new_key authority.key
    openssl req -x509 -new -key authority.key -sha256 -days "$days" -subj "/CN=perdure authority" -out authority.crt \
        -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign
fi
fits() { # HOST...: the gate's certificate is for all of them
    for host in "$@"; do
        case $host in
        *[!0-9.]*) openssl x509 -in gate.pem -noout -checkhost "$host" ;;
        *) openssl x509 -in gate.pem -noout -checkip "$host" ;;
        esac | grep -q ' does match ' || return 1
    done
}

if [ ! -e gate.pem ] || { [ -e authority.key ] && ! fits "$@"; }; then
    names=
    for name in "$@"; do
        case $name in
        *[!0-9.]*) names="$names,DNS:$name" ;;
        *) names="$names,IP:$name" ;;
        esac
    done
    new_key gate.key
    signed gate "extendedKeyUsage=serverAuth
subjectAltName=${names#,}"
    cat gate.crt gate.key >gate.new
    mv gate.new gate.pem
    rm -f gate.crt gate.key
fi
if [ ! -e instances.crt ]; then
    new_key instances.key
    signed instances "extendedKeyUsage=clientAuth"
fi
indented() { sed 's/$/\\n/' "$1" | tr -d '\n'; }
cat >temporal.new <<END
# For root on instances alone: whoever has it can speak to every workflow.
[profile.default]
address = "$1:7234"

[profile.default.tls]
server_ca_cert_data = "$(indented authority.crt)"
client_cert_data = "$(indented instances.crt)"
client_key_data = "$(indented instances.key)"
END
mv temporal.new temporal.toml
