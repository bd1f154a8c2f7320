#!/bin/sh
# First program of the virtual machine's root: mounts, modules, then the Python process that waits for a job.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 none /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
modprobe -qa loop xfs overlay veth bridge br_netfilter tun unix_diag tcp_diag udp_diag raw_diag inet_diag af_packet_diag \
    netlink_diag nf_tables nft_chain_nat nft_compat nft_ct nf_conntrack nf_nat xt_conntrack xt_addrtype xt_MASQUERADE xt_mark fuse
ip link set lo up
# As Amazon Linux 2023 has it; Debian's `always` makes 2 MiB the unit of changed memory.
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
hostname vm
exec python3 -I /opt/vm/wait.py
