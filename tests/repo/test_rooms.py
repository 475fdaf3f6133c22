"""The rooms and their one arrow hold in this repository, and the check finds each breach."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from rooms import FLOAT_OPERATIONS, broken_rules

ROOT = Path(__file__).parents[2]
C_ROOMS = [ROOT / "runtime/engine", ROOT / "targets", *sorted(ROOT.glob("kernels_*"))]
HEADERS = sorted(path for room in C_ROOMS for path in room.glob("*.h"))

# Rooms that only one machine's compiler takes, and the flags that open their widest level.
MACHINES = {
    "kernels_x86": (
        "x86_64",
        ["-mavx2", "-mfma", "-mf16c", *(f"-mavx512{x}" for x in ("f", "bw", "dq", "vl", "vnni"))],
    ),
    "kernels_neon": ("aarch64", []),
    "kernels_rvv": ("riscv64", ["-march=rv64gcv"]),
}

# Headers that are source for others to compile, and what these say before they include one.
PRELUDES = {
    FLOAT_OPERATIONS: '#include "lanes.h"\n#define NYB_LEVEL ref\n',
    "kernels_ref/float_attention.h": (
        '#include <math.h>\n#include <string.h>\n#include "lanes.h"\n'
        "#define NYB_KERNEL(name) name##_ref\n#define NYB_INLINE static inline\n"
        "static void softmax_ref(const nyb_softmax_args *a) { *a->sum = 0; }\n"
        "static nyb_v8 v8_exp(nyb_v8 x) { return x; }\n"
        "static float block_amax(const float *x) { return *x; }\n"
    ),
    "kernels_ref/float_matrices.h": (
        '#include "lanes.h"\n#define NYB_KERNEL(name) name##_ref\n'
        "#define NYB_INLINE static inline\n"
    ),
    "kernels_x86/gemm.h": "enum { REGISTERS = 1, TOKENS = 4, SCALED_TOKENS = 4 };\n",
}

# A tree that keeps every rule; each case below changes or adds one file of it.
GOOD = {
    "kernels_ref/nyb_kernels.h": "#include <stdint.h>\n",
    "kernels_ref/lanes.h": '#include "nyb_kernels.h"\n',
    FLOAT_OPERATIONS: '#include "lanes.h"\n',
    "kernels_ref/gemv.c": '#include "lanes.h"\n#include <math.h>\n',
    "kernels_x86/lanes.h": "#include <immintrin.h>\n",
    "kernels_x86/float_avx2.c": f'#include "../{FLOAT_OPERATIONS}"\n',
    "targets/registry.h": '#include "nyb_kernels.h"\n',
    "runtime/engine/nyb_run.h": (
        '#include "registry.h"\n#include <pthread.h>\n'
        "static inline int nyb_steps(const nyb_program *program) {\n"
    ),
    "runtime/nybble/_core/engine.pxd": (
        'cdef extern from "nyb_run.h" nogil:\n'
        "    ctypedef struct nyb_program:\n"
        "        int n_steps\n"
        "    int nyb_run(const nyb_program *program) noexcept\n"
        "    int nyb_steps(const nyb_program *program) noexcept\n"
    ),
    "runtime/nybble/_core/native.pyx": (
        "from nybble._core.engine cimport nyb_program, nyb_run\n"
        "cdef int run(const nyb_program *p) noexcept nogil:\n"
        "    return nyb_run(p)\n"
    ),
    "runtime/nybble/_core/program.pyx": (
        '"""Runs what nyb_run(program) runs."""\n'
        "from libc.stdint cimport uint8_t\n"
        "from nybble._core cimport native  # nyb_run's door\n"
        "from nybble._core.engine cimport nyb_program, nyb_steps\n"
        "from nybble.errors import FormatError\n"
    ),
    "runtime/nybble/errors.py": "",
    "runtime/nybble/model.py": "import nybble._core.program\nfrom . import errors\n",
    "tests/test_model.py": "import nybble\nfrom nybble._core import program\n",
    "tools/dump.py": "import numpy\nfrom nybble.model import Model\n",
}

BREACHES = {
    "core names python": (
        "runtime/nybble/_core/program.pyx",
        "import os\nfrom nybble.model import Model\n",
        "runtime/nybble/_core/program.pyx:2: nybble._core names nybble.model",
    ),
    "core names python, relative": (
        "runtime/nybble/_core/program.pyx",
        "from ..model import Model\n",
        "runtime/nybble/_core/program.pyx:1: nybble._core names nybble.model",
    ),
    "core names python, late": (
        "runtime/nybble/_core/program.pyx",
        "def f():\n    import nybble.model as m\n",
        "runtime/nybble/_core/program.pyx:2: nybble._core names nybble.model",
    ),
    "core's stub names python": (
        "runtime/nybble/_core/program.pyi",
        "from nybble.model import Model\n",
        "runtime/nybble/_core/program.pyi:1: nybble._core names nybble.model",
    ),
    "package names tests": (
        "runtime/nybble/model.py",
        "\nimport tests.golden\n",
        "runtime/nybble/model.py:2: nybble names tests.golden",
    ),
    "package names tools": (
        "runtime/nybble/model.py",
        "def f():\n    from tools.dump import dump\n",
        "runtime/nybble/model.py:2: nybble names tools.dump",
    ),
    "a second cdef extern": (
        "runtime/nybble/_core/native.pyx",
        '\ncdef extern from "nyb_run.h":\n    int nyb_run(void *)\n',
        "runtime/nybble/_core/native.pyx:2: cdef extern; only",
    ),
    "a second module with C symbols": (
        "runtime/nybble/_core/program.pyx",
        "from nybble._core.engine cimport nyb_run\n",
        "runtime/nybble/_core/program.pyx:1: refers to the C symbol nyb_run; only native.pyx",
    ),
    "engine includes Python": (
        "runtime/engine/run.c",
        '#include "nyb_run.h"\n#include <Python.h>\n',
        "runtime/engine/run.c:2: the engine knows no <Python.h>",
    ),
    "engine opens files": (
        "runtime/engine/run.c",
        "#include <stdio.h>\n",
        "runtime/engine/run.c:1: the engine knows no <stdio.h>",
    ),
    "targets include the engine": (
        "targets/registry.c",
        '#include "nyb_run.h"\n',
        "targets/registry.c:1: targets includes runtime/engine/nyb_run.h",
    ),
    "kernels include targets": (
        "kernels_x86/gemv_avx2.c",
        '# include "registry.h"\n',
        "kernels_x86/gemv_avx2.c:1: kernels includes targets/registry.h",
    ),
    "kernels include another room": (
        "kernels_x86/gemv_avx2.c",
        '\n#include "../kernels_ref/lanes.h"\n',
        "kernels_x86/gemv_avx2.c:2: includes kernels_ref/lanes.h; of another room",
    ),
    "kernels allocate": (
        "kernels_ref/gemv.c",
        "#include <stdlib.h>\n",
        "kernels_ref/gemv.c:1: kernels know no <stdlib.h>",
    ),
    "the contract includes a kernel": (
        "kernels_ref/nyb_kernels.h",
        '#include "lanes.h"\n',
        "kernels_ref/nyb_kernels.h:1: contract includes kernels_ref/lanes.h",
    ),
    "a header that is nowhere": (
        "kernels_ref/gemv.c",
        '#include "gone.h"\n',
        'kernels_ref/gemv.c:1: includes "gone.h", which is in no room',
    ),
}


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_repository_keeps_the_arrow():
    assert list(broken_rules(ROOT)) == []


def test_good_tree_breaks_no_rule(tmp_path):
    write_tree(tmp_path, GOOD)
    assert list(broken_rules(tmp_path)) == []


@pytest.mark.parametrize("case", BREACHES)
def test_breach_is_found(tmp_path, case):
    name, text, found = BREACHES[case]
    write_tree(tmp_path, GOOD | {name: text})
    broken = list(broken_rules(tmp_path))
    assert len(broken) == 1
    assert broken[0].startswith(found)


def test_there_are_headers():
    assert HEADERS


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_header_compiles_alone(header):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed to build nybble"
    machine, flags = MACHINES.get(header.parent.name, (platform.machine(), []))
    if machine != platform.machine():
        pytest.skip(f"this compiler is not for {machine}")
    includes = [f"-I{room}" for room in C_ROOMS if room in (header.parent, *C_ROOMS[:2])]
    includes.append(f"-I{ROOT / 'kernels_ref'}")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [
        compiler,
        "-std=c11",
        "-D_GNU_SOURCE",
        "-fsyntax-only",
        *warnings,
        *flags,
        *includes,
        "-xc",
        "-",
    ]
    before = PRELUDES.get(header.relative_to(ROOT).as_posix(), "")
    source = f'{before}#include "{header.name}"\nextern int nyb_not_empty;\n'
    result = subprocess.run(command, input=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
