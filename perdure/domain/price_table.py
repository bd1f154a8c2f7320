"""The dated price table that we ship: the last resort where AWS's own prices are not known. US dollars, us-east-1 only.

Everything worked out of it is marked as estimated. What it does not name has no figure: prices are never guessed.

On-demand (Linux, shared tenancy, per hour): AWS's Price List API as the Karpenter project kept it
(aws/karpenter-provider-aws, pkg/providers/pricing/zz_generated.pricing_aws.go, generated 2026-01-19 for us-east-1).
EBS, per GiB-month of storage, and snapshots: AWS's EBS pricing page for us-east-1 as many public cost tools repeat it
(gp3 0.08, gp2 0.10, io1 and io2 0.125, st1 0.045, sc1 0.015, standard 0.05, snapshot 0.05). A month of an
operation a second: gp3 0.005 beyond 3,000, io1 and io2 0.065 (io2 less beyond 32,000, which is not counted); of a MiB/s
of gp3 beyond 125: 0.04. S3 Standard: 0.023 per GiB-month, 0.005 per 1,000 writes, 0.0004 per 1,000
reads; KMS: 0.03 per 10,000 requests (their pricing pages, us-east-1).
"""

from __future__ import annotations

TABLE_DATE = "2026-01-19"
TABLE_REGION = "us-east-1"

TYPICAL_SPOT_PERCENT = 40
"""A Spot price that nobody knows is taken to be this part of the on-demand price. Our choice, and a cautious one: AWS
says "up to 90 %" off, a study of the prices since 2017 found 70 to 90 % off most often (Isobe et al., "An Evaluation of
the Discount Rates for Spot Instances on Amazon EC2"), and discounts in us-east-1 are among the smallest."""

_ON_DEMAND = """
c4   large 0.100   xlarge 0.199   2xlarge 0.398   4xlarge 0.796   8xlarge 1.591
c5   large 0.085   xlarge 0.170   2xlarge 0.340   4xlarge 0.680   9xlarge 1.530   12xlarge 2.040  18xlarge 3.060
c5   24xlarge 4.080
c5a  large 0.077   xlarge 0.154   2xlarge 0.308   4xlarge 0.616   8xlarge 1.232   16xlarge 2.464  24xlarge 3.696
c5d  large 0.096   xlarge 0.192   2xlarge 0.384   4xlarge 0.768   9xlarge 1.728   18xlarge 3.456
c6a  large 0.0765  xlarge 0.153   2xlarge 0.306   4xlarge 0.612   8xlarge 1.224   16xlarge 2.448
c6g  large 0.068   xlarge 0.136   2xlarge 0.272   4xlarge 0.544   8xlarge 1.088   16xlarge 2.176
c6i  large 0.085   xlarge 0.170   2xlarge 0.340   4xlarge 0.680   8xlarge 1.360   16xlarge 2.720  32xlarge 5.440
c6id large 0.1008  xlarge 0.2016  2xlarge 0.4032  4xlarge 0.8064  8xlarge 1.6128  16xlarge 3.2256
c7g  large 0.0725  xlarge 0.145   2xlarge 0.290   4xlarge 0.580   8xlarge 1.160   16xlarge 2.320
c7i  large 0.08925 xlarge 0.1785  2xlarge 0.357   4xlarge 0.714   8xlarge 1.428   16xlarge 2.856
m4   large 0.100   xlarge 0.200   2xlarge 0.400   4xlarge 0.800   16xlarge 3.200
m5   large 0.096   xlarge 0.192   2xlarge 0.384   4xlarge 0.768   8xlarge 1.536   12xlarge 2.304  24xlarge 4.608
m5a  large 0.086   xlarge 0.172   2xlarge 0.344   4xlarge 0.688   8xlarge 1.376   16xlarge 2.752
m5d  large 0.113   xlarge 0.226   2xlarge 0.452   4xlarge 0.904   8xlarge 1.808   16xlarge 3.616
m6a  large 0.0864  xlarge 0.1728  2xlarge 0.3456  4xlarge 0.6912  8xlarge 1.3824  16xlarge 2.7648
m6g  large 0.077   xlarge 0.154   2xlarge 0.308   4xlarge 0.616   8xlarge 1.232   16xlarge 2.464
m6i  large 0.096   xlarge 0.192   2xlarge 0.384   4xlarge 0.768   8xlarge 1.536   16xlarge 3.072  32xlarge 6.144
m6id large 0.11865 xlarge 0.2373  2xlarge 0.4746  4xlarge 0.9492  8xlarge 1.8984  16xlarge 3.7968
m7g  large 0.0816  xlarge 0.1632  2xlarge 0.3264  4xlarge 0.6528  8xlarge 1.3056  16xlarge 2.6112
m7i  large 0.1008  xlarge 0.2016  2xlarge 0.4032  4xlarge 0.8064  8xlarge 1.6128  16xlarge 3.2256
r5   large 0.126   xlarge 0.252   2xlarge 0.504   4xlarge 1.008   8xlarge 2.016   12xlarge 3.024  24xlarge 6.048
r5a  large 0.113   xlarge 0.226   2xlarge 0.452   4xlarge 0.904   8xlarge 1.808   16xlarge 3.616
r5d  large 0.144   xlarge 0.288   2xlarge 0.576   4xlarge 1.152   8xlarge 2.304   16xlarge 4.608
r6a  large 0.1134  xlarge 0.2268  2xlarge 0.4536  4xlarge 0.9072  8xlarge 1.8144  16xlarge 3.6288
r6g  large 0.1008  xlarge 0.2016  2xlarge 0.4032  4xlarge 0.8064  8xlarge 1.6128  16xlarge 3.2256
r6i  large 0.126   xlarge 0.252   2xlarge 0.504   4xlarge 1.008   8xlarge 2.016   16xlarge 4.032  32xlarge 8.064
r6id large 0.1512  xlarge 0.3024  2xlarge 0.6048  4xlarge 1.2096  8xlarge 2.4192  16xlarge 4.8384
r7i  large 0.1323  xlarge 0.2646  2xlarge 0.5292  4xlarge 1.0584  8xlarge 2.1168  16xlarge 4.2336
g4dn xlarge 0.526  2xlarge 0.752  4xlarge 1.204   8xlarge 2.176   12xlarge 3.912  16xlarge 4.352
g5   xlarge 1.006  2xlarge 1.212  4xlarge 1.624   8xlarge 2.448   12xlarge 5.672  16xlarge 4.096  48xlarge 16.288
g6   xlarge 0.8048 2xlarge 0.9776 4xlarge 1.3232  8xlarge 2.0144  12xlarge 4.6016 16xlarge 3.3968
p3   2xlarge 3.060 8xlarge 12.240 16xlarge 24.480
"""

_STORAGE = """
gp3-iops 0.005  io1-iops 0.065  io2-iops 0.065  gp3-throughput 0.04
gp3 0.08  gp2 0.10  io1 0.125  io2 0.125  st1 0.045  sc1 0.015  standard 0.05  snapshot 0.05
s3 0.023  s3-1000-writes 0.005  s3-1000-reads 0.0004  kms-10000-requests 0.03
"""


def to_micros(dollars: str, times: int = 1) -> int:
    """Whole micro-dollars of so many `times` a price as AWS writes it (`0.0312000000`), halves rounded up. ValueError
    for anything that is not a plain, non-negative decimal number."""
    whole, _, part = dollars.strip().partition(".")
    if not (whole + part).isascii() or not (whole + part).isdigit() or not whole:
        raise ValueError(f"{dollars[:40]!r} is not a price in dollars")
    scale: int = 10 ** len(part)
    return (2 * int(whole + part) * times * 1_000_000 + scale) // (2 * scale)


def _pairs(words: list[str]) -> dict[str, int]:
    return {name: to_micros(price) for name, price in zip(words[::2], words[1::2], strict=True)}


ON_DEMAND: dict[str, int] = {
    f"{family}.{size}": micros
    for family, *sizes in map(str.split, _ON_DEMAND.strip().splitlines())
    for size, micros in _pairs(sizes).items()
}
"""Micro-dollars per hour by instance type."""

STORAGE: dict[str, int] = _pairs(_STORAGE.split())
"""Micro-dollars per GiB-month by volume type, for `snapshot` and for `s3`; requests by the number in their name."""
