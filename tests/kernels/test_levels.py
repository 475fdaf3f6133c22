"""A compiler that cannot build a level makes a build without it, and without its rows."""

import re
import shutil

import pytest

from targets.build import build_program, built_levels, libraries
from tests import emulated
from tools.aarch64 import COMPILER

from .test_rows import SOURCES

LEVELS = built_levels(["cc"])


def refusing(compiler, pattern, folder):
    """The compiler, which fails where its arguments are of the shell's pattern."""
    path = folder / "cc"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in {pattern}) exit 1;; esac\nexec {shutil.which(compiler)} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_whose_probe_fails_is_left_out(level, tmp_path):
    flags = "".join(f"{flag}\\ " for flag in LEVELS[level])
    compiler = refusing("cc", f"{flags}-c\\ *", tmp_path)
    whole, found = ({lib.name: lib for lib in libraries([cc])} for cc in ("cc", compiler))
    assert whole.keys() - found.keys() == {f"nyb_{level}"}
    flags_of = [libs["nyb_targets"].cflags for libs in (whole, found)]
    assert set(flags_of[0]) - set(flags_of[1]) == {f"-DNYB_HAVE_{level.upper()}=1"}
    assert all(found[name].sources == whole[name].sources for name in found)


def test_a_build_without_a_level_runs_the_rows_below_it(tmp_path, objects):
    emulated.need_tools()
    compiler = refusing(COMPILER[0], "*i8mm*", tmp_path)
    found = built_levels([compiler, *COMPILER[1:]])
    assert [*found] == ["neon", "dotprod"]
    program = tmp_path / "check_rows"
    build_program(program, SOURCES, COMPILER, objects, only=[*found])  # shared with other tests
    done = emulated.run("max", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"neon: [1-9]\d* rows\ndotprod: [1-9]\d* rows\n", done.stdout)
    assert emulated.run("max", program, "i8mm").returncode == 2
