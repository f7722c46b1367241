#!/bin/sh
# A node's life on cgroup v2, driven by the knarr command alone. Every line of `check` says ok or FAIL.
. /vm/checks

start_daemon() {
    knarr serve >>/var/log/knarr.log 2>&1 &
    daemon=$!
    tries=0
    until knarr version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { fail "the daemon answers"; return; }
        usleep 100000
    done
    echo "ok   the daemon answers"
}

# cgroup FILE: of the container `limited`, read from inside.
cgroup() { knarr exec limited cat "/sys/fs/cgroup/$1"; }

mounts() { cut -d' ' -f2 /proc/mounts | sort; }

mkdir -p /var/log /tmp/walk
docker-registry serve /vm/registry.yml >/var/log/registry.log 2>&1 &
registry=$!
await 60 '{}' wget -qO- http://127.0.0.1:5000/v2/ || fail "the registry answers" "$(tail -5 /var/log/registry.log)"
mounts >/tmp/walk/mounts
start_daemon

check "pull" "sha256:" knarr pull 127.0.0.1:5000/demo/client:1
check "run" "address 10.88." knarr run /vm/pod.yaml
check "ps" "Running" knarr ps

check "a cgroup namespace" "0::/" knarr exec limited cat /proc/self/cgroup
check "memory.max" "67108864" cgroup memory.max
check "memory.swap.max" "0" cgroup memory.swap.max
check "cpu.max" "50000 100000" cgroup cpu.max
check "cpu.weight" "59" cgroup cpu.weight
check "pids.max" "max" cgroup pids.max
check "cgroup.controllers" "memory" cgroup cgroup.controllers
check "its cgroups are read-only" "Read-only" knarr exec limited sh -c 'mkdir /sys/fs/cgroup/x 2>&1 || true'
check "oom_score_adj" "-997" knarr exec limited cat /proc/1/oom_score_adj
check "the shim's oom_score_adj" "-99" sh -c 'for p in $(pidof knarr-shim); do cat /proc/$p/oom_score_adj; done'
check "no device but those of the container" "not permitted" \
    knarr exec limited sh -c '{ mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg; } 2>&1 || true'
check "a device of the container" "opened" \
    knarr exec limited sh -c 'mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero >/tmp/out && echo opened'
check "the pod's own network" "64 bytes" ping -c 1 -w 20 "$(knarr inspect walk | sed -n 's/.*"ip": "\([0-9.]*\)".*/\1/p' | head -1)"
check "the default AppArmor profile" "knarr-default (enforce)" knarr exec limited cat /proc/self/attr/current
check "masquerading" "masquerade" nft list ruleset

knarr stats -o json limited >/dev/null
sleep 1
stats=$(knarr stats -o json limited)
for field in usageCoreNanoSeconds usageNanoCores workingSetBytes usageBytes rssBytes pageFaults; do
    if printf '%s' "$stats" | tr -d ' \n' | grep -q "\"$field\":{\"value\":\"[1-9]"; then
        echo "ok   stats: $field"
    else
        fail "stats: $field" "$stats"
    fi
done
check "stats as a table" "limited" knarr stats

printf knarr-default >/sys/kernel/security/apparmor/.remove
check "an eater of memory is started" "container" knarr run /vm/eater.yaml
check "the AppArmor profile is loaded again" "knarr-default" cat /sys/kernel/security/apparmor/profiles
await 60 Exited knarr ps --all --pod eater || fail "the eater is killed"
check "the reason" "OOMKilled" knarr inspect eat
check "the exit code" "137" knarr inspect eat
check "a neighbour lives" "Running" knarr ps --pod walk

before=$(knarr ps --all --quiet)
kill -9 $daemon
wait $daemon 2>/dev/null
start_daemon
check "the list after a crash" "$before" knarr ps --all --quiet
check "the reason after a crash" "OOMKilled" knarr inspect eat
check "exec after a crash" "67108864" cgroup memory.max

check "stop of what ignores SIGTERM" "" knarr stop --timeout 1s limited
check "it was killed" "137" knarr inspect limited
for pod in walk eater; do
    check "stop $pod" "" knarr stop $pod
    check "rm $pod" "" knarr rm $pod
done
no "pods are left" "$(knarr pods --quiet)"
no "shims are left" "$(pidof knarr-shim)"
# The directory of network namespaces stays a mount, as `ip netns add` leaves it.
no "mounts are left" "$(mounts | diff /tmp/walk/mounts - | grep '^[+-]/' | grep -vx '+/run/netns')"
no "network namespaces are left" "$(ls /run/netns 2>/dev/null)"
no "links are left" "$(ls /sys/class/net | grep -v -e '^lo$' -e '^knarr0$')"
no "cgroups are left" "$(find /sys/fs/cgroup -mindepth 2 -type d)"
no "pods' directories are left" "$(ls /run/knarr/pods /var/lib/knarr/pods 2>/dev/null | grep -v -e ':$' -e '^$')"

kill $daemon $registry
wait $daemon 2>/dev/null
if [ $failures -gt 0 ]; then
    echo "--- the daemon's log"
    cat /var/log/knarr.log
fi
[ $failures -eq 0 ]
