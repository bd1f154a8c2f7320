#!/bin/bash
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q -y install awscli curl
aws s3 cp --region ${region} ${source} /root/perdure.tar.gz
echo "${sha256}  /root/perdure.tar.gz" | sha256sum --check
mkdir -p /opt/perdure-server && tar -xzf /root/perdure.tar.gz -C /opt/perdure-server --strip-components 1
printf '%s\n' AWS_REGION=${region} DATA_VOLUME=${volume} INTERRUPTION_QUEUE=${queue} \
    JOB_EVENT_QUEUE=${job_events} JOB_QUEUES=${job_queues} >/etc/perdure-server.env
printf '%s\n' '[Unit]' 'After=network-online.target' '[Service]' 'Type=oneshot' \
    'EnvironmentFile=/etc/perdure-server.env' 'ExecStart=/bin/bash /opt/perdure-server/deploy/server/first-boot.sh' \
    '[Install]' 'WantedBy=multi-user.target' >/etc/systemd/system/perdure-server.service
systemctl enable --now perdure-server
