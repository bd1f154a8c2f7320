#!/bin/sh
# GNU sort in the middle of its work, with temporary files:  sort.sh DATA_FOLDER
. "${0%/*}/gate.sh"
mkdir "$data/tmp"
{ numbers 300000 1; gate; numbers 300000 2; } |
    sort --buffer-size=2M --parallel=2 --temporary-directory="$data/tmp" | tee "$data/sorted" | md5sum &
until [ "$(find "$data/tmp" -type f | wc -l)" -ge 3 ]; do sleep 0.05; done
echo ready
wait
sort --check "$data/sorted" && wc -l <"$data/sorted"
ls -A "$data/tmp"
