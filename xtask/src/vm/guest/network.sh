#!/bin/sh
# Every test program of networks.
status=0
for program in /vm/networks/*; do
    "$program" || status=1
done
exit $status
