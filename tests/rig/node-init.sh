#!/bin/bash
# The first process of a node, in network, mount, PID, UTS and IPC namespaces of its own: arranges the mounts, then keeps the
# node's programs running. Whatever it does is gone with it. Arguments: the cluster's folder; the node's name; the
# machine's and the node's address on the link between them; the range of Services; archives of images.
set -eu
folder=$1 name=$2 gateway=$3 address=$4 services=$5
shift 5
hostname "$name"

# A sysfs of this network namespace with the machine's cgroups in it. The copy is unmounted before anything becomes shared:
# the unmount would reach the cgroups as well, and the kubelet would find none.
mkdir "$folder/cgroups"
mount --rbind /sys/fs/cgroup "$folder/cgroups"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroups" /sys/fs/cgroup
umount --lazy "$folder/cgroups"
# Not every kernel has them, and only some Pods look.
mount -t bpf bpf /sys/fs/bpf || true
mount -t securityfs securityfs /sys/kernel/security || true
mount -t tracefs tracefs /sys/kernel/tracing || true

# All programs use their usual paths and Pods with hostPath see them, yet nothing is written to the machine itself.
for top in etc opt usr/libexec var; do
  mkdir -p "$folder/upper/$top" "$folder/work/$top"
  mount -t overlay overlay -o "lowerdir=/$top,upperdir=$folder/upper/$top,workdir=$folder/work/$top" "/$top"
done
for path in run var/log var/lib/kubelet var/lib/containerd var/lib/cni etc/cni/net.d; do
  mkdir -p "$folder/state/$path" "/$path"
  mount --bind "$folder/state/$path" "/$path"
done
# The kubelet would set these for the whole machine; it finds them as it wants them.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=$folder/sysctl-$(basename "${setting%=*}")
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount --make-rshared /

# The other end of the link is put here from outside.
until [ -e /sys/class/net/eth0 ]; do sleep 0.02; done
ip link set lo up
ip address add "$address/30" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
sysctl --quiet --write net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

# Starts again whatever ends: kube-router gives up while its Node does not exist.
keep() {
  local log=$folder/log/$1.log
  while true; do
    "$@" >> "$log" 2>&1 || true
    sleep 0.3
  done
}

PATH=$folder/bin:$PATH
keep containerd --config "$folder/containerd.toml" &
until ctr version > /dev/null 2>&1; do sleep 0.1; done
for archive in "$@"; do
  ctr --namespace k8s.io images import "$archive"
done
# The kubelet gives up at once when its runtime or the API does not answer.
until [ -e "$folder/api-ready" ]; do sleep 0.05; done
keep kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/keys/node.kubeconfig" \
  --hostname-override "$name" --node-ip "$address" &
keep kube-proxy --config "$folder/kube-proxy.yaml" &
keep kube-router --run-firewall=true --run-router=false --run-service-proxy=false \
  --kubeconfig "$folder/keys/kube-router.kubeconfig" --hostname-override "$name" \
  --service-cluster-ip-range "$services" --health-port 20244 &
wait
