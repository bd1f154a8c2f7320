"""Which instance types can take a checkpoint."""

from __future__ import annotations

from perdure.domain.instance_types import judge_types, missing_features
from worker_agent.engine import machine

SKYLAKE = "aes avx avx2 avx512f popcnt sse4_2"


def test_what_a_node_reported_outranks_nothing_and_comes_first() -> None:
    fits = judge_types(SKYLAKE, {"m5.large": [SKYLAKE + " rdseed"], "m5a.large": ["aes avx avx2 popcnt sse4_2"]})
    assert (fits[0].instance_type, fits[0].basis, fits[0].missing) == ("m5.large", "seen", [])
    by_name = {fit.instance_type: fit for fit in fits}
    assert by_name["m5a.large"].missing == ["avx512f"] and not by_name["m5a.large"].fits
    assert by_name["m6i.*"].fits and by_name["m6i.*"].basis == "expected"
    assert not by_name["m6a.*"].fits and not by_name["m7g.*"].fits
    assert [fit.fits for fit in fits] == sorted((fit.fits for fit in fits), reverse=True)


def test_a_type_has_what_all_its_nodes_had() -> None:
    (fit, *_) = judge_types("avx avx512f", {"c5.large": ["avx avx512f", "avx"]})
    assert fit.fits, "a family of the table fits"
    seen = next(fit for fit in judge_types("avx avx512f", {"c5.large": ["avx avx512f", "avx"]}) if fit.basis == "seen")
    assert seen.missing == ["avx512f"]


def test_missing_features_are_named() -> None:
    assert missing_features("avx avx512f amx_tile", "avx sse") == ["amx_tile", "avx512f"]
    assert missing_features("", "avx") == []


def test_this_cpu_fits_itself() -> None:
    here = machine.cpu_features()
    assert here and "xsaves" not in here.split()
    assert missing_features(here, here) == []
