#!/bin/busybox sh
# The first process of the virtual machine: runs what /run.list tells, one suite on each line, and powers off. What the
# suites say goes to the second serial port, between lines that begin with @. The kernel's console is the first.

/bin/busybox mkdir -p /busybox /proc /sys /dev /tmp /run /root
/bin/busybox --install -s /busybox
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin:/busybox HOME=/root

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf fd/0 /dev/stdin
ln -sf fd/1 /dev/stdout
ln -sf fd/2 /dev/stderr
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ip link set lo up
hostname vm

# What the kernel does not load by itself. Without tun there is no /dev/net/tun to ask for it by. Who asks for a kind of device
# while another has the kernel load its module is told that there is none.
modprobe -a tun ip_vs ip_vs_rr veth bridge macvlan vrf virtio_pci virtio_net e1000e vmxnet3 2>/dev/null

# Everything goes out as it is written: what has been said until the machine dies, or is given up, is known.
stty -F "/dev/$results" raw -echo
exec 3>"/dev/$results"

# Tests hold both ends of thousands of connections; the kernel's own limit is 4,096 files.
ulimit -n 65536

mkdir -p /run/netns
export REPLYPATH_BINARY=/src/bin/replypath REPLYPATH_TEST_ALL_DEVICES=1 REPLYPATH_TEST_PATIENCE=10
export REPLYPATH_FUZZ_PACKETS=20000
while IFS='	' read -r name directory seconds command; do
  echo "@start $name" >&3
  begin=$(cut -d. -f1 /proc/uptime)
  (cd "$directory" && exec timeout -s QUIT -k 10 "$seconds" sh -c "$command") >&3 2>&3 </dev/null
  echo "@end $name $? $(($(cut -d. -f1 /proc/uptime) - begin))" >&3
done </run.list
echo "@done" >&3
poweroff -f
