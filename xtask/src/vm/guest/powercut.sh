#!/bin/sh
# A node whose images lie on the disk that will lose its power: does what the console says, word by word, and
# answers `@ done` or `@ failed WHY`.
exec 3<>/dev/ttyS0
stty -echo <&3
root=/var/lib/knarr

answer() { printf '@ %s\n' "$*"; }

# Runs a command: its output is told only if it fails.
try() {
    if said=$("$@" 2>&1); then
        answer done
    else
        answer "failed $* said: $(printf '%s' "$said" | tail -n 20 | tr '\n' ' ')"
    fi
}

# What lies below the root that no image explains. A download that broke off is kept for the next attempt.
left() {
    find $root/ingest -mindepth 1 -maxdepth 1
    [ "$1" != purged ] || find $root/layers $root/fixups $root/images -mindepth 1 -maxdepth 1
}

# The sweeper works behind the daemon's back, and collections come with removals.
settled() {
    tries=0
    until [ -z "$(left "$1")" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "left behind: $(left "$1")"; return 1; }
        usleep 100000
    done
}

await() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "in vain: $*"; return 1; }
        usleep 100000
    done
}

# What needs no disk. Here the machine is saved, to go on with another disk each time.
wake() {
    modprobe -a virtio_pci ext4 xfs || return
    mkdir -p $root
    docker-registry serve /vm/registry.yml >/var/log/registry.log 2>&1 &
    await wget -qO- http://127.0.0.1:5000/v2/
}

start() {
    modprobe virtio_blk && await test -b /dev/vda || return
    mount -t "$1" /dev/vda $root || return
    knarr serve >/var/log/knarr.log 2>&1 &
    await knarr version
}

stop() {
    # A daemon that has ended itself is none that could be stopped.
    kill $! && wait $! && umount $root
}

purge() {
    ids=$(knarr images --quiet) || return
    # shellcheck disable=SC2086
    [ -z "$ids" ] || knarr image rm $ids || return
    settled purged
}

if wake >/tmp/said 2>&1; then answer done; else answer "failed to wake: $(cat /tmp/said)"; fi
while read -r verb rest <&3; do
    case $verb in
    '') ;;
    start)
        # Not in a subshell: the daemon is this shell's child.
        if start "$rest" >/tmp/said 2>&1; then
            answer done
        else
            answer "failed to start: $(cat /tmp/said /var/log/knarr.log | tail -n 20 | tr '\n' ' ')"
        fi
        ;;
    list)
        knarr images -o json | sed -n 's|.*"127.0.0.1:5000/\([^"@]*\)".*|@ have \1|p' | sort -u
        answer done
        ;;
    verify) try knarr image verify ;;
    pull) try knarr pull --quiet "127.0.0.1:5000/$rest" ;;
    rm) try knarr rmi "127.0.0.1:5000/$rest" ;;
    settle) try settled ;;
    purge) try purge ;;
    nothing) try test -z "$(ls $root/partial)" ;;
    log) cat /var/log/knarr.log; answer done ;;
    stop)
        if stop >/tmp/said 2>&1; then answer done; else answer "failed to stop: $(cat /tmp/said)"; fi
        exit
        ;;
    *) answer "failed: no such verb $verb" ;;
    esac
done
