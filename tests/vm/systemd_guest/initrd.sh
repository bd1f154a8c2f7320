#!/bin/busybox sh
# The first program of all: the disk's drivers, then systemd on the real root.
/bin/busybox mkdir -p /proc /dev /sys /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules.list); do /bin/busybox insmod "$module"; done
while [ ! -e /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root || exec /bin/busybox sh
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
