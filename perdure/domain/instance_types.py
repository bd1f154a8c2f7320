"""Which instance types can restore a checkpoint: the CPU features it may rely on, and what each type is known to have.

What nodes of a type reported of themselves (`seen`) outranks our table (`expected`). The table knows instance families
by the processor that AWS's instance type pages name for them, and each processor's flags by Linux's names for them;
where a family comes with several processors it has what all of them have. It is dated, and nobody has checked it on
AWS (docs/aws-assumptions.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perdure.domain.values import Frozen

TABLE_DATE = "2026-11-23"


def _flags(words: str) -> frozenset[str]:
    return frozenset(words.split())


_HASWELL = _flags(
    "sse sse2 ssse3 sse4_1 sse4_2 popcnt movbe aes pclmulqdq xsave xsaveopt avx f16c rdrand fma bmi1 bmi2 avx2 abm erms"
    " cx16"
)
_BROADWELL = _HASWELL | {"adx", "rdseed"}
_SKYLAKE = _BROADWELL | _flags("avx512f avx512dq avx512cd avx512bw avx512vl clflushopt clwb xsavec")
_CASCADE_LAKE = _SKYLAKE | {"avx512_vnni"}
_ICE_LAKE = _CASCADE_LAKE | _flags(
    "avx512ifma avx512vbmi avx512_vbmi2 avx512_bitalg avx512_vpopcntdq gfni vaes vpclmulqdq sha_ni rdpid fsrm"
)
_SAPPHIRE_RAPIDS = _ICE_LAKE | _flags(
    "avx_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8 cldemote movdiri movdir64b"
)
_ZEN = (_BROADWELL - {"erms"}) | _flags("sse4a clflushopt sha_ni xsavec")
_ZEN2 = _ZEN | {"clwb", "rdpid"}
_ZEN3 = _ZEN2 | _flags("erms fsrm vaes vpclmulqdq")
_ZEN4 = _ZEN3 | _flags(
    "avx512f avx512dq avx512cd avx512bw avx512vl avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg"
    " avx512_vpopcntdq avx512_bf16 gfni"
)
_NEOVERSE_N1 = _flags("asimd asimdhp asimdrdm asimddp aes pmull sha1 sha2 crc32 atomics")
_NEOVERSE_V1 = _NEOVERSE_N1 | _flags("asimdfhm sha3 sha512 sve svei8mm svebf16")
_NEOVERSE_V2 = (_NEOVERSE_V1 - {"svei8mm", "svebf16"}) | _flags(
    "sve2 sveaes svepmull svebitperm svesha3 svei8mm svebf16"
)

_FAMILIES: dict[str, frozenset[str]] = {
    **dict.fromkeys(("c4", "m4", "r4", "i3", "x1", "x1e", "p3"), _HASWELL),
    **dict.fromkeys(("m5", "m5d", "m5n", "m5dn", "c5", "c5d", "c5n", "r5", "r5d", "r5n", "r5dn", "i3en"), _SKYLAKE),
    **dict.fromkeys(("g4dn", "m5zn", "r5b", "p4d"), _CASCADE_LAKE),
    **dict.fromkeys(("m5a", "m5ad", "r5a", "r5ad", "t3a"), _ZEN),
    **dict.fromkeys(("c5a", "c5ad", "g4ad", "g5"), _ZEN2),
    **dict.fromkeys(("m6i", "m6id", "m6in", "c6i", "c6id", "c6in", "r6i", "r6id", "r6in", "i4i", "x2idn"), _ICE_LAKE),
    **dict.fromkeys(("m6a", "c6a", "r6a", "hpc6a", "g6", "p5"), _ZEN3),
    **dict.fromkeys(("m7i", "m7i-flex", "c7i", "c7i-flex", "r7i", "r7iz", "i7ie"), _SAPPHIRE_RAPIDS),
    **dict.fromkeys(("m7a", "c7a", "r7a", "hpc7a"), _ZEN4),
    **dict.fromkeys(("m6g", "m6gd", "c6g", "c6gd", "c6gn", "r6g", "r6gd", "t4g", "x2gd", "im4gn"), _NEOVERSE_N1),
    **dict.fromkeys(("m7g", "m7gd", "c7g", "c7gd", "c7gn", "r7g", "r7gd", "hpc7g"), _NEOVERSE_V1),
    **dict.fromkeys(("m8g", "c8g", "r8g", "x8g"), _NEOVERSE_V2),
}


class InstanceTypeFit(Frozen):
    """Whether one instance type (`m6i.large`) or a whole family (`m6i.*`) has the wanted CPU features.

    `basis`: `seen` on a node of that type, or `expected` by the table. `missing`: the features it lacks.
    """

    instance_type: str
    basis: str
    missing: list[str]

    @property
    def fits(self) -> bool:
        """Nothing is missing."""
        return not self.missing


def expected_features(named: str) -> frozenset[str] | None:
    """What the table expects of a type (`m6i.large`) or a family (`m6i`); None: it knows nothing of it."""
    return _FAMILIES.get(named.partition(".")[0])


def missing_features(wanted: str, present: str) -> list[str]:
    """Flags (words) of `wanted` that `present` lacks, sorted."""
    return sorted(_flags(wanted) - _flags(present))


def judge_types(wanted: str, seen: Mapping[str, Iterable[str]]) -> list[InstanceTypeFit]:
    """Every type seen and every family of the table against the flags `wanted`; the fitting ones first, by name.

    `seen`: by instance type, the flags that each of its nodes reported; a type has what all its nodes had.
    """
    known = [(name, "seen", frozenset.intersection(*map(_flags, reports))) for name, reports in seen.items()]
    known += [(f"{family}.*", "expected", features) for family, features in _FAMILIES.items()]
    found = [
        InstanceTypeFit(instance_type=name, basis=basis, missing=sorted(_flags(wanted) - features))
        for name, basis, features in known
    ]
    return sorted(found, key=lambda fit: (not fit.fits, fit.basis != "seen", fit.instance_type))
