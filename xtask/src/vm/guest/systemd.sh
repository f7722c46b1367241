#!/bin/sh
# knarr as a service of systemd: installed, started, reloaded, restarted, killed, stopped, and through a
# reboot, with a pod running all the time. Every line of `check` says ok or FAIL.
. /vm/checks

serve() {
    systemctl start knarr || fail "the service starts" "$(systemctl status knarr)" "$(tail -5 /var/log/knarr.log)"
    await 60 "runtime API" knarr version || fail "the daemon answers" "$(tail -5 /var/log/knarr.log)"
}
property() { systemctl show --property "$1" --value "$2"; }
main() { property MainPID knarr; }
scope() { echo "knarr-$(knarr pods --quiet 2>/dev/null | head -1).scope"; }
group() { printf '/sys/fs/cgroup%s' "$(property ControlGroup "$1")"; }
# The container's cgroup, from outside.
container() { find /sys/fs/cgroup/knarr.slice -mindepth 2 -maxdepth 2 -type d ! -name shim | head -1; }

# The same pod, its shim, limits and device filter as at the beginning.
unharmed() {
    check "$1: the pod runs" Running knarr ps
    check "$1: it is the same process" "$pid" head -1 "$(container)/cgroup.procs"
    check "$1: memory.max" 67108864 cat "$(container)/memory.max"
    check "$1: cpu.max" "50000 100000" cat "$(container)/cpu.max"
    check "$1: pids.max of the scope" max cat "$(group "$(scope)")/pids.max"
    check "$1: the device filter holds" "not permitted" \
        knarr exec limited sh -c '{ rm -f /tmp/kmsg; mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg; } 2>&1 || true'
    check "$1: its devices are there" "opened" \
        knarr exec limited sh -c 'head -c 1 /dev/zero >/tmp/out && echo opened'
    check "$1: the scope is active" active systemctl is-active "$(scope)"
}

finish() {
    if [ $failures -gt 0 ]; then
        echo "--- the daemon's log"
        cat /var/log/knarr.log
    fi
    [ $failures -eq 0 ]
    exit
}

after_the_reboot() {
    serve
    await 60 Exited knarr ps --all || fail "after a reboot: the container has ended" "$(knarr ps --all)"
    check "after a reboot: the pod is not ready" "NotReady" knarr pods
    works "after a reboot: doctor" knarr doctor
    for pod in $(knarr pods --quiet); do works "after a reboot: rm" knarr rm --force "$pod"; done
    check "after a reboot: a pod runs again" "address 10.88." knarr run /vm/pod.yaml
    works "after a reboot: it is removed" knarr rm --force walk
    no "after a reboot: scopes are left" "$(systemctl list-units --no-legend 'knarr-*.scope')"
    systemctl stop knarr
    finish
}

mkdir -p /tmp/walk
docker-registry serve /vm/registry.yml >/var/log/registry.log 2>&1 &
await 60 '{}' wget -qO- http://127.0.0.1:5000/v2/ || fail "the registry answers" "$(tail -5 /var/log/registry.log)"
systemd-tmpfiles --create knarr.conf || fail "tmpfiles"
check "the state directory" "711 root" stat -c '%a %U' /run/knarr
if [ -e /data/rebooted ]; then after_the_reboot; fi

serve
check "the driver is systemd" "driver=Systemd" cat /var/log/knarr.log
check "pull" "sha256:" knarr pull 127.0.0.1:5000/demo/client:1
check "run" "address 10.88." knarr run /vm/pod.yaml
pid=$(head -1 "$(container)/cgroup.procs")
check "the scope is delegated" yes property Delegate "$(scope)"
check "its slice" knarr.slice property Slice "$(scope)"
check "the shim is in the scope" "/knarr.slice/$(scope)/shim" sh -c 'cat /proc/$(pidof knarr-shim)/cgroup'
no "only the daemon is in the service's group" "$(grep -vx "$(main)" "$(group knarr)/cgroup.procs")"
unharmed "at first"

systemctl daemon-reload
unharmed "daemon-reload"
systemctl daemon-reexec
unharmed "daemon-reexec"
systemctl set-property --runtime "$(scope)" CPUWeight=50
unharmed "a property of the scope is changed"

before=$(main)
systemctl restart knarr
await 60 "runtime API" knarr version || fail "the daemon answers again"
check "restart: another daemon" different sh -c "[ $(main) = $before ] || echo different"
unharmed "restart"
systemctl kill --signal KILL knarr
await 60 "runtime API" knarr version || fail "the daemon comes back"
unharmed "kill of all of the service's processes"
systemctl stop knarr
no "stop: the daemon has ended" "$(pidof knarr | tr -d '\n')"
check "stop: the shim lives" "1" sh -c 'pidof knarr-shim | wc -w'
serve
unharmed "stop and start"

# A daemon that answers nobody is killed and begun anew.
mkdir -p /run/systemd/system/knarr.service.d
printf '[Service]\nWatchdogSec=10\nTimeoutAbortSec=2\n' >/run/systemd/system/knarr.service.d/watchdog.conf
systemctl daemon-reload && systemctl restart knarr
await 60 "runtime API" knarr version || fail "the daemon answers again"
fed=$(property WatchdogTimestampMonotonic knarr)
fed_again() { [ "$(property WatchdogTimestampMonotonic knarr)" = "$fed" ] || echo fed; }
await 30 fed fed_again || fail "the watchdog is fed"
before=$(main)
kill -STOP "$before"
another() { now=$(main); [ "$now" = "$before" ] || [ "$now" = 0 ] || echo another; }
await 60 another another || fail "the watchdog bites" "$(systemctl status knarr)"
await 60 "runtime API" knarr version || fail "the daemon answers after that"
unharmed "watchdog"

# Its own socket is out of reach: then there is the message bus.
systemctl start dbus.socket dbus.service || fail "the bus starts" "$(systemctl status dbus)"
sed 's/name: walk/name: bused/; s/name: limited/name: busy/' /vm/pod.yaml >/tmp/walk/bused.yaml
walked=$(scope)
mv /run/systemd/private /run/systemd/out-of-reach
check "over the bus: run" "address 10.88." knarr run /tmp/walk/bused.yaml
bused=$(systemctl list-units --plain --no-legend 'knarr-*.scope' | cut -d' ' -f1 | grep -v "$walked")
check "over the bus: the scope is active" active systemctl is-active "$bused"
works "over the bus: stop" knarr stop bused
check "over the bus: the scope is gone" not-found property LoadState "$bused"
works "over the bus: rm" knarr rm bused
mv /run/systemd/out-of-reach /run/systemd/private
unharmed "over the bus"

works "doctor" knarr doctor
works "stop the pod" knarr stop walk
works "rm the pod" knarr rm walk
no "scopes are left" "$(systemctl list-units --all --no-legend 'knarr-*.scope')"
no "groups are left" "$(find /sys/fs/cgroup/knarr.slice -mindepth 1 -type d)"
no "shims are left" "$(pidof knarr-shim)"
check "run before the reboot" "address 10.88." knarr run /vm/pod.yaml
touch /data/rebooted
[ $failures -eq 0 ] || finish
sync
systemctl reboot
# Ended by that.
while :; do sleep 600; done
