#!/bin/sh
# The virtual machine's first process: mounts what a Debian with cgroup v2 has mounted, and goes on as
# systemd or with what was asked for.
export PATH=/usr/sbin:/usr/bin HOME=/root

if [ "$1" != moved ]; then
    # pivot_root(2) refuses to leave the initial file system: everything moves to one that is not.
    mount -t tmpfs -o mode=755,size=75% tmpfs /mnt
    for entry in /*; do
        case $entry in
            /dev | /mnt | /proc | /run | /sys) ;;
            *) cp -a "$entry" /mnt ;;
        esac
    done
    (cd /mnt && mkdir -p dev mnt proc root run sys tmp)
    exec switch_root /mnt /init moved
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
# The kernel takes a policy in one write, and labels what is mounted then and later.
if mount -t selinuxfs selinuxfs /sys/fs/selinux 2>/dev/null; then
    dd if=/vm/selinux-policy of=/sys/fs/selinux/load bs=16M 2>/dev/null || echo "no SELinux policy"
fi
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
ip link set lo up
hostname vm
# What a systemd machine starts with.
ulimit -n 1024 -H -n 524288 2>/dev/null
for module in overlay veth bridge nf_tables loop ext4 fuse; do modprobe "$module"; done
# Nodes keep their layers, and tests work, on a file system whose ids can be mapped.
mkdir -p /data
disk=/disk loop=loop
if grep -q persistent-disk /proc/cmdline; then
    # One that a reboot does not empty.
    modprobe virtio_pci && modprobe virtio_blk
    disk=/dev/vda loop=relatime
else
    truncate -s 1G /disk && mkfs.ext4 -q /disk
fi
mount -o $loop $disk /data 2>/dev/null || { mkfs.ext4 -q $disk && mount -o $loop $disk /data; } ||
    echo "no ext4 on /data"
for dir in tmp var/tmp var/lib/knarr; do
    mkdir -p "/data/$dir" "/$dir"
    # Tests find things where the repository was, which may have been below one of these.
    cp -a "/$dir/." "/data/$dir"
    mount --bind "/data/$dir" "/$dir"
done
chmod 1777 /tmp /var/tmp

# A machine that systemd runs goes on with that.
[ ! -e /usr/lib/systemd/systemd ] || exec /usr/lib/systemd/systemd --unit=vm.target
exec /vm/parts
