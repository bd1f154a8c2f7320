#!/bin/bash
# GNU parallel, xargs -P and make -j, each with three jobs at a time:  parallel.sh DATA_FOLDER
. "${0%/*}/gate.sh"
cd "$data" || exit 3
mkdir parts
{ echo "all: $(seq --format part%g --separator ' ' 1 30)"
  for n in $(seq 1 30); do printf 'part%s:\n\t@sleep 0.05; echo %s | md5sum >parts/make.%s\n' "$n" "$n" "$n"; done; } >Makefile
numbers 3 6 >one
seq 1 1000000 | while read -r n && [ ! -e finish ]; do echo "$((n % 30))"; echo "$n" >beat; sleep 0.02; done |
    parallel --jobs 3 --joblog log 'echo {} | md5sum >parts/parallel.{}; sleep 0.05' &
first=$!
(while [ ! -e finish ]; do seq 0 29 | xargs -P 3 -I@ sh -c 'echo @ | md5sum >parts/xargs.@; sleep 0.05' || exit; done) &
second=$!
(while [ ! -e finish ]; do make --silent --jobs 3 all || exit; done) &
third=$!
until [ -e parts/parallel.29 ] && [ -e parts/xargs.29 ] && [ -e parts/make.29 ]; do sleep 0.05; done
echo ready
for job in $first $second $third; do wait "$job"; echo "ended $?"; done
awk 'NR > 1 && ($7 || $8) { print "failed", $0 }' log
cat parts/* | md5sum
