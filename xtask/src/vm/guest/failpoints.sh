#!/bin/sh
# The daemon and the shims die, and fail, at every place there is, under systemd's cgroup driver; arguments are
# parts of tests' names.
export KNARR_TEST_CGROUP_DRIVER=systemd KNARR_DIST=/usr/bin
status=0
for program in /vm/failpoints/*; do
    "$program" --test-threads 2 "$@" || status=1
done
exit $status
