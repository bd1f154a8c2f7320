#!/bin/bash
# BLAST with two threads on a data base of its own, again and again:  blast.sh DATA_FOLDER
set -e
. "${0%/*}/gate.sh"
cd "$data"
letters='BEGIN { split("A C D E F G H I K L M N P Q R S T V W Y", letter, " ") } { printf "%s", letter[$1 % 20 + 1] }'
numbers 60000 5 | awk "$letters" | fold -w 200 | awk '{ print ">p" NR; print }' >proteins.fa
head -80 proteins.fa | awk '!/>/ { $0 = substr($0, 1, 90) "W" substr($0, 92) } { print }' >queries.fa
makeblastdb -in proteins.fa -dbtype prot -out proteins -parse_seqids >/dev/null
search() { blastp -db proteins -query queries.fa -num_threads 2 -outfmt 6 | sort | md5sum; }
first=$(search)
echo ready
count=0
while [ ! -e finish ]; do
    [ "$(search)" = "$first" ] || { echo "wrong: another answer"; exit 3; }
    count=$((count + 1))
    echo "$count" >beat
done
echo "$first"
