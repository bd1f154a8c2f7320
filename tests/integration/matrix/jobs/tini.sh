#!/bin/sh
# The child of an init wrapper: leaves processes behind that the wrapper must wait for:  tini.sh DATA_FOLDER
. "${0%/*}/gate.sh"
left_behind() { sh -c '(sleep 0.2; exit 3) & (sleep 1000; exit 3) & :'; }
left_behind
echo ready
gate
left_behind
sleep 1
for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" 2>/dev/null || continue
    case "${line##*) }" in Z*) echo "wrong: a zombie is left: $line"; exit 3 ;; esac
done
echo "end: process $$, parent $PPID"
