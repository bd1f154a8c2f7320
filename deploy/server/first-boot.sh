#!/bin/bash
# The management server on a Debian 12 instance: Docker on the data volume, then docker-compose.yml with the gate before
# Temporal. Both server stacks (deploy/cloudformation, deploy/terraform) run it from the unpacked source, as root, at every
# boot; what is done already is left.
#
# Expects in the environment: AWS_REGION, DATA_VOLUME (vol-…), INTERRUPTION_QUEUE and JOB_EVENT_QUEUE (addresses, or empty),
# JOB_QUEUES (ARNs separated by commas, or empty).
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly data=/var/lib/perdure-server
export DEBIAN_FRONTEND=noninteractive

device() { # EBS volumes bear their id as serial number
    lsblk --noheadings --output PATH,SERIAL | awk -v serial="${DATA_VOLUME/-/}" '$2 == serial { print $1; exit }'
}

for _ in $(seq 150); do
    [ -z "$(device)" ] || break
    sleep 2
done
disk=$(device)
[ -n "$disk" ] || { echo "the data volume $DATA_VOLUME is not attached" >&2; exit 1; }
blkid "$disk" >/dev/null || mkfs.ext4 -q "$disk"
mkdir -p "$data"
mountpoint -q "$data" || mount "$disk" "$data"

if [ ! -e /etc/docker/daemon.json ]; then
    mkdir -p /etc/docker "$data/docker"
    printf '{"data-root": "%s/docker"}\n' "$data" >/etc/docker/daemon.json
fi
command -v docker-compose >/dev/null || { apt-get -q update && apt-get -q -y install docker.io docker-compose openssl; }

metadata=http://169.254.169.254/latest
token=$(curl -fsS -X PUT "$metadata/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60")
address=$(curl -fsS "$metadata/meta-data/local-ipv4" -H "X-aws-ec2-metadata-token: $token")

if [ ! -e "$data/env" ]; then
    (
        umask 077
        {
            echo "TEMPORAL_DATABASE_PASSWORD=$(openssl rand -hex 24)"
            echo "PERDURE_DATABASE_PASSWORD=$(openssl rand -hex 24)"
        } >"$data/env.new"
    )
    mv "$data/env.new" "$data/env"
fi
# A name that leads here outlives this instance; its address does not.
name=$(sed -n 's/^TEMPORAL_GATE_NAME=//p' "$data/env")
sh deploy/docker/temporal-certificates.sh "$data/certificates" ${name:+"$name"} "$address"
{
    cat "$data/env"
    echo "AWS_REGION=$AWS_REGION"
    echo "PERDURE_PUBLISH=$address"
    echo "TEMPORAL_GATE_PUBLISH=$address"
    echo "TEMPORAL_CERTIFICATES=$data/certificates"
    echo "PERDURE_INTERRUPTION_QUEUE=$INTERRUPTION_QUEUE"
    echo "PERDURE_JOB_EVENT_QUEUE=$JOB_EVENT_QUEUE"
    echo "PERDURE_JOB_QUEUES=$JOB_QUEUES"
} | install -m 600 /dev/stdin .env
exec docker-compose --file docker-compose.yml --file deploy/docker/temporal-gate.yml up --build --detach
