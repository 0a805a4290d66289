# Runs in a guest, below this machine's root: brings up what tests need, then each step of `steps`. All that the steps
# say goes to the port that xtask reads, between lines that tell where a step begins and how it ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
exec < /dev/null > "$(echo /dev/vport*p1)" 2>&1
echo "@@ booted $(uname -r)"
# The kernel loads most modules itself, by `modprobe`; these are asked for in ways that do not.
for module in br_netfilter nf_conntrack_netlink sch_ingress cls_bpf veth; do modprobe "$module"; done
ip link set lo up
sysctl -q -w kernel.panic_on_oops=1 net.ipv6.conf.all.disable_ipv6=0
step() {
    name=$1
    echo "@@ start $name"
    shift
    "$@"
    status=$?
    echo "@@ exit $name $status"
    return $status
}
steps
echo "@@ end"
/run/guest/busybox reboot -f
