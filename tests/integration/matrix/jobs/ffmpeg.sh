#!/bin/sh
# ffmpeg in the middle of a film, two threads:  ffmpeg.sh DATA_FOLDER
. "${0%/*}/gate.sh"
frames() {
    perl -e 'my ($first, $count) = @ARGV; for my $n ($first .. $first + $count - 1) {
        print pack("C*", map { ($_ * 7 + $n * 3 + ($_ >> 5) * $n) & 255 } 0 .. 160 * 120 * 3 - 1) }' "$1" "$2"
}
{ frames 0 60; gate; frames 60 60; } |
    ffmpeg -hide_banner -loglevel error -nostats -f rawvideo -pix_fmt rgb24 -s 160x120 -r 25 -i - -c:v libx264 -threads 2 \
        -pix_fmt yuv420p -fflags +bitexact -flags:v +bitexact -f matroska -y "$data/film.mkv" &
film=$!
# It has read the first half once its feeder waits.
until [ "$(find "$data" -name film.mkv)" ]; do sleep 0.05; done
sleep 1
echo ready
wait "$film"
echo "ffmpeg $?"
md5sum <"$data/film.mkv"
ffmpeg -hide_banner -loglevel error -i "$data/film.mkv" -f framemd5 - | md5sum
