"""The AVX-VNNI rows on a CPU that has VNNI in its 512-bit form only.

The VEX and the EVEX form of VPDPBUSD compute the same and differ in encoding, so compiled with the
other form the rows can be tried where their own cannot run.
"""

import ctypes
import subprocess

import pytest

from targets.build import CFLAGS, ROOT, built_levels

from . import test_matrices
from .contract import ROWS_BY_NAME

NAMES = [name for name, row in ROWS_BY_NAME.items() if row["level"] == "avxvnni"]
OTHER_FORM = [
    *("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512vl", "-mavx512vnni"),
    "-D_mm256_dpbusd_avx_epi32=_mm256_dpbusd_epi32",
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not any(r["runs"] for r in ROWS_BY_NAME.values() if r["level"] == "avx512vnni"):
        pytest.skip("this CPU has no 512-bit VNNI")
    assert "avx512vnni" in built_levels(["cc"])
    out = tmp_path_factory.mktemp("avxvnni") / "rows.so"
    sources = sorted(map(str, ROOT.glob("kernels_x86/*_avxvnni.c")))
    includes = [f"-I{ROOT / room}" for room in ("kernels_x86", "kernels_ref")]
    flags = [*CFLAGS, "-fvisibility=default", "-std=c99", "-O3", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, *OTHER_FORM, *includes, *sources, "-o", str(out)], check=True)
    return ctypes.CDLL(str(out))


@pytest.fixture(params=NAMES)
def name(request, library, monkeypatch):
    function = ctypes.cast(getattr(library, f"nyb_{request.param}"), ctypes.c_void_p)
    row = ROWS_BY_NAME[request.param]
    monkeypatch.setitem(row, "address", function.value)
    monkeypatch.setitem(row, "runs", True)
    return request.param


def test_the_row_equals_the_reference(name):
    if name.startswith("gemm"):
        test_matrices.test_gemm_equals_gemv_of_each_token(name, 40)
    else:
        for mode in ("random", "largest", "smallest", "subnormal", "mixed signs"):
            test_matrices.test_gemv_equals_the_reference(name, mode)
