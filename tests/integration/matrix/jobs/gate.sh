# For the shell jobs of the matrix, to be sourced: $1 is the data folder.
data=$1
gate() { while [ ! -e "$data/finish" ]; do sleep 0.05; done; }
# `count` lines that look random and are always the same: numbers COUNT SEED
numbers() { awk -v count="$1" -v x="$2" 'BEGIN { for (i = 0; i < count; i++) { x = (x * 16807) % 2147483647; print x, i } }'; }
