#!/bin/sh
# awk with large arrays in the middle of its input:  awk.sh DATA_FOLDER
. "${0%/*}/gate.sh"
{ numbers 200000 5; gate; numbers 200000 6; } | awk -v told="$data/told" '
    { count[$1 % 10007]++; last[$1 % 10007] = $2 }
    NR == 200000 { print "half" >told; close(told) }
    END { for (i = 0; i < 10007; i++) print i, count[i], last[i] }' | md5sum &
until [ -s "$data/told" ]; do sleep 0.05; done
echo ready
wait
