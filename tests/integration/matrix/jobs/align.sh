#!/bin/bash
# BWA and samtools in the middle of their work, again and again:  align.sh DATA_FOLDER
set -e -o pipefail
. "${0%/*}/gate.sh"
cd "$data"
bases='BEGIN { split("A C G T", base, " ") } { printf "%s", base[$1 % 4 + 1] } END { print "" }'
numbers 120000 1 | awk "$bases" >line
{ echo ">one"; fold -w 70 line; } >ref.fa
numbers 4000 2 | awk -v genome="$(cat line)" '{ print "@r" NR; print substr(genome, $1 % 119900 + 1, 100); print "+"
    quality = sprintf("%100s", ""); gsub(/ /, "I", quality); print quality }' >reads.fq
bwa index ref.fa 2>/dev/null
align() {
    bwa mem -t 2 ref.fa reads.fq 2>/dev/null | samtools sort -@ 2 -m 1M -T "$data/part" -o "$1.bam" - 2>/dev/null
    samtools index "$1.bam"
    samtools view "$1.bam" | md5sum
}
first=$(align first)
echo ready
count=0
while [ ! -e finish ]; do
    [ "$(align "again")" = "$first" ] || { echo "wrong: another alignment"; exit 3; }
    count=$((count + 1))
    echo "$count" >beat
done
samtools flagstat first.bam
echo "$first"
