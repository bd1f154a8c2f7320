#!/bin/sh
# The child of an init wrapper: leaves processes behind that the wrapper must wait for:  tini.sh DATA_FOLDER
. "${0%/*}/gate.sh"
left_behind() { sh -c '(sleep 0.2; exit 3) & (sleep 1000; exit 3) & :'; }
zombies() {
    for stat in /proc/[0-9]*/stat; do
        read -r line 2>/dev/null <"$stat" && case "${line##*) }" in Z*) return 0 ;; esac
    done
    return 1
}
number=$$
left_behind
echo ready
gate
left_behind
sleep 0.5
tries=0
while zombies; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "wrong: a zombie is left: $line"; exit 3; }
    sleep 0.1
done
read -r self _ <"/proc/$$/stat"
[ "$self" = "$number" ] || { echo "wrong: process $self was $number"; exit 3; }
echo "end: parent $PPID"
