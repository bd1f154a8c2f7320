# perl: hashes, a child behind pipes, signals, an appended file:  perl perl.pl DATA_FOLDER
use strict;
use warnings;
use IO::Handle;

my ($data) = @ARGV;
my ($alarms, $rounds, $digest, %seen) = (0, 0, 1);
$SIG{ALRM} = sub { $alarms++; alarm 1 };
pipe(my $from_parent, my $to_child) or die;
pipe(my $from_child, my $to_parent) or die;
$_->autoflush(1) for $to_child, $to_parent, \*STDOUT;
if (!fork) {
    close $to_child;
    my $sum = 0;
    while (my $line = <$from_parent>) { $sum = ($sum * 31 + $line) % 1000003; print $to_parent "$sum\n" }
    exit;
}
close $from_parent;
open my $log, '>>', "$data/log" or die;
$log->autoflush(1);
alarm 1;
my ($model, $beat) = (0, "$data/beat");
while (1) {
    my $last = -e "$data/finish";
    $rounds++;
    $digest = ($digest * 16807) % 2147483647;
    $seen{$digest % 5003} = $rounds;
    $model = ($model * 31 + $digest) % 1000003;
    print $to_child "$digest\n";
    chomp(my $answer = <$from_child>);
    if ($answer != $model) { print "wrong: the child says $answer, not $model\n"; exit 3 }
    print $log "$rounds $digest\n";
    if ($rounds == 1) { print "ready\n" }
    if ($rounds % 10 == 0) { open my $out, '>', $beat or die; print $out "$rounds\n"; close $out }
    last if $last;
    select undef, undef, undef, 0.005;
}
open my $in, '<', "$data/log" or die;
my ($x, $lines) = (1, 0);
while (<$in>) {
    $x = ($x * 16807) % 2147483647;
    if ($_ ne ++$lines . " $x\n") { print "wrong: line $lines of the log is $_"; exit 3 }
}
if ($lines != $rounds) { print "wrong: $lines lines for $rounds rounds\n"; exit 3 }
print "end\n";
