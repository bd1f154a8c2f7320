#!/bin/bash
# A shell pipeline in the middle of its work, with loops, compression, traps and background jobs:  pipeline.sh DATA_FOLDER
set -o pipefail
. "${0%/*}/gate.sh"
trap 'echo "signal at line $LINENO" >/dev/null; asked=yes' USR1
{ numbers 30000 3; gate; numbers 30000 4; } |
    while read -r number line; do echo "$line $((number % 97))"; done |
    tee "$data/plain" >(gzip -9 >"$data/copy.gz") >(sort -n -k2 | md5sum >"$data/digest") |
    grep -v ' 7$' | awk '{ sum[$2] += $1 } END { for (n in sum) print n, sum[n] }' | sort -n >"$data/sums" &
pipeline=$!
(while :; do sleep 1000; done) &
sleeper=$!
until [ -s "$data/plain" ] && [ "$(wc -l <"$data/plain")" -ge 29000 ]; do sleep 0.05; done
echo ready
gate
kill -USR1 $$
wait "$pipeline"
while [ "$asked" != yes ]; do wait "$pipeline"; done
kill "$sleeper"
wait "$sleeper"
echo "pipeline sleeper $? asked $asked"
until [ -s "$data/digest" ]; do sleep 0.05; done
cat "$data/digest"
md5sum <"$data/sums"
until gzip -t "$data/copy.gz" 2>/dev/null; do sleep 0.05; done
zcat "$data/copy.gz" | md5sum
