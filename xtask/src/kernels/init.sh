#!/bin/busybox sh
# The first process of a guest. Its root becomes a folder of this machine's, most often all of it, read over 9p, with a
# layer in memory over it: what runs here changes nothing there.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module"; done < /modules.order
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host &&
    mount -t tmpfs -o size=80% layer /layer &&
    mkdir /layer/upper /layer/work &&
    mount -t overlay -o lowerdir="/host$(cat /root.folder)",upperdir=/layer/upper,workdir=/layer/work root /root || {
    echo "guest: no root" > /dev/console
    reboot -f
}
for folder in dev proc sys; do mount --move /$folder /root/$folder; done
mount -t tmpfs tmp /root/tmp
mount -t tmpfs run /root/run
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup /root/sys/fs/cgroup
mount -t tracefs trace /root/sys/kernel/tracing
mkdir -p /root/run/guest /root/run/lock /root/lib/modules /root/dev/shm
mount -t tmpfs shm /root/dev/shm
# Where this machine's root would not run here, the folders that the work needs of it.
[ -e /folders ] && while read -r folder; do
    mkdir -p "/root$folder"
    mount --bind "/host$folder" "/root$folder"
done < /folders
cp /bin/busybox /run.sh /root/run/guest
rm -rf "/root/lib/modules/$(uname -r)"
ln -s "$(cat /modules.folder)" "/root/lib/modules/$(uname -r)"
exec switch_root /root /bin/sh /run/guest/run.sh
