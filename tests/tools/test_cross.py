"""Cross-building: what a platform's file may say, what is found in libraries and wheels, and what
counts as a failure of a board. `make test-boards` runs the whole of it.

Libraries are small ones that the machine's compiler makes here, each with one thing that is wrong.
"""

from __future__ import annotations

import json
import platform as machine
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from nybble import board
from tests import emulated
from tools.aarch64 import COMPILER
from tools.cross import (
    AskedError,
    CrossError,
    elf,
    platforms,
    test,
    toolbox,
    trial,
    userland,
    wheel,
)
from tools.cross.__main__ import main

GLIBC_HERE = tuple(map(int, (machine.libc_ver()[1] or "0.0").split(".")))[:2]
FIELDS = {
    "zig": "x86_64-linux-gnu.2.28",
    "machine": {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}.get(machine.machine(), ""),
    "glibc": "2.28",
    "page_align": 65536,
    "needed": ["libc.so.6", "libm.so.6", "libpthread.so.0"],
}
WHEEL = "nybble-0.1.0-cp311-abi3-manylinux_2_17_{0}.manylinux2014_{0}.whl"
USERLAND = {
    "arch": "arm64",
    "suite": "bookworm",
    "glibc": "2.36",
    "python": "3.11",
    "include": ["python3"],
    "packages": ["pytest==8.4.2"],
}


# -- platforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", platforms.platforms())
def test_every_platform_is_read(id):
    platform = platforms.load(id)
    assert platform.zig.startswith(platform.cpu)
    # Jetson Nano's system is of 2018; a wheel for nothing newer is one for everything since 2014.
    assert platform.tags(platform.glibc) == [f"manylinux_2_17_{platform.cpu}"]


def test_an_unknown_platform_is_told_with_those_there_are():
    with pytest.raises(AskedError, match="no platform 'linux-vax'; known: .*linux-aarch64"):
        platforms.load("linux-vax")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"speed": 3}, "speed is unknown"),
        ({"machine": 62}, "machine is 62"),
        ({"page_align": True}, "page_align is True"),
        ({"page_align": 5000}, "page_align is 5000, no power of two"),
        ({"needed": []}, "needed is \\[\\]"),
        ({"needed": [6]}, "needed is \\[6\\]"),
        ({"glibc": "new"}, "not for glibc new"),
        ({"glibc": "2.31"}, "not for glibc 2.31"),
        ({"userland": {**USERLAND, "speed": 3}}, r"\[userland\]: speed is unknown"),
        ({"userland": {**USERLAND, "packages": ["pytest"]}}, "pytest has no version"),
        ({"userland": {**USERLAND, "python": "3"}}, "'3' is no version"),
        ({"userland": {**USERLAND, "glibc": "new"}}, "'new' is no version"),
        ({"userland": {"arch": "arm64"}}, "is missing"),
    ],
)
def test_what_is_wrong_in_a_platforms_file_is_named(change, what):
    with pytest.raises(CrossError, match=rf"platforms/x\.toml.*{what}"):
        platforms.parsed("x", {**FIELDS, **change})


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_of_a_platform_is_named(name):
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(CrossError, match=f"{name} is missing"):
        platforms.parsed("x", fields)


def test_a_userland_has_another_key_when_a_field_differs():
    one, other = (
        platforms.parsed("x", {**FIELDS, "userland": {**USERLAND, "suite": suite}}).userland
        for suite in ("bookworm", "trixie")
    )
    assert one.key() != other.key()
    assert one.key() == one._replace().key()


# -- libraries ------------------------------------------------------------------------------------


PLAIN = "int plain(int a) { return a + 1; }"
# A thread's start is in glibc 2.34 what it was in 2.2.5, under another version.
NEW = "#include <pthread.h>\nint f(void *g) { return pthread_create(g, 0, g, 0); }"
TEXTREL = '__asm__(".text\\n.quad abort\\n"); int plain(void) { return 1; }'
ALIGNED = "-Wl,-z,max-page-size=65536"


def library(folder, source, *flags):
    """The bytes of a shared library of this C source."""
    c_file, path = folder / "plain.c", folder / "plain.so"
    c_file.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, c_file, *flags], check=True)
    return path.read_bytes()


@pytest.fixture(name="platform")
def fixture_platform():
    if not FIELDS["machine"]:
        pytest.skip("no platform for this machine")
    return platforms.parsed("linux-x86_64", FIELDS)


def test_a_plain_library_is_fine(tmp_path, platform):
    assert elf.complaints(library(tmp_path, PLAIN, ALIGNED), platform) == []


def test_what_is_wrong_in_a_library_is_found(tmp_path, platform):
    def found(source, *flags):
        return elf.complaints(library(tmp_path, source, *flags), platform)

    other = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-o", other, "-x", "c", "/dev/null"], check=True)
    small = "segments are aligned to 4096 bytes, not 65536"
    assert found(PLAIN, "-Wl,-z,max-page-size=4096") == [small]
    assert found(PLAIN, ALIGNED, "-Wl,-z,execstack") == ["asks for an executable stack"]
    assert found(PLAIN, ALIGNED, "-Wl,-rpath,/here") == ["looks for libraries in /here"]
    assert found(PLAIN, ALIGNED, "-Wl,--no-as-needed", str(other)) == [f"needs {other}"]
    assert set(found(TEXTREL, ALIGNED, "-Wl,-z,notext")) == {"has relocations in its text"}


@pytest.mark.skipif(GLIBC_HERE < (2, 34), reason="needs a glibc of 2.34 or newer")
def test_a_symbol_newer_than_the_platform_is_found(tmp_path, platform):
    wanted = "wants GLIBC_2.34 of libc.so.6, not at most GLIBC_2.28"
    assert elf.complaints(library(tmp_path, NEW, ALIGNED), platform) == [wanted]
    newer = platform._replace(glibc=(2, 34))
    assert elf.complaints(library(tmp_path, NEW, ALIGNED), newer) == []


def test_versions_are_compared_as_numbers():
    fits = ("GLIBC_2.9", "GLIBC_2.2.5", "GLIBC_2.28")
    assert [elf._is_old_enough(version, (2, 28)) for version in fits] == [True] * 3
    not_fit = ("GLIBC_2.29", "GLIBC_3.0", "GLIBC_PRIVATE", "GLIBCXX_3.4", "GLIBC_ABI_DT_RELR")
    assert [elf._is_old_enough(version, (2, 28)) for version in not_fit] == [False] * 5


ATOMICS = {
    "cas w0, w1, [sp]": 0x88A07FE1,
    "casalb w0, w1, [x2]": 0x08E0FC41,
    "casp x0, x1, x2, x3, [x4]": 0x48207C82,
    "caspal w0, w1, w2, w3, [x4]": 0x0860FC82,
    "ldaddal x0, x1, [x2]": 0xF8E00041,
    "stadd w0, [x1]": 0xB820003F,
    "ldclrh w0, w1, [x2]": 0x78201041,
    "ldeor x0, x1, [x2]": 0xF8202041,
    "ldsetl x0, x1, [x2]": 0xF8603041,
    "lduminb w0, w1, [x2]": 0x38207041,
    "swpalh w0, w1, [x2]": 0x78E08041,
    "ldapr x0, [x1]": 0xF8BFC020,
}
NOT_NEW = {  # of which some differ in a bit from one above
    "ldxr x0, [x1]": 0xC85F7C20,
    "stlxr w2, x0, [x1]": 0xC802FC20,
    "ldxp x0, x1, [x2]": 0xC87F0440,
    "stlxp w4, w0, w1, [x2]": 0x88248440,
    "ldar x0, [x1]": 0xC8DFFC20,
    "ldr x0, [x1, x2]": 0xF8626820,
    "str w0, [x1, #-4]!": 0xB81FCC20,
    "ldtr x0, [x1]": 0xF8400820,
    "ldr q0, [x1, x2]": 0x3CE26820,
    "prfm pldl1keep, [x1, x2]": 0xF8A26820,
}


@pytest.mark.parametrize("instruction", [*ATOMICS, *NOT_NEW])
def test_atomics_are_told_from_other_instructions(instruction):
    word = {**ATOMICS, **NOT_NEW}[instruction].to_bytes(4, "little")
    assert elf.new_atomics(bytes(4) + word + bytes(2)) == (instruction in ATOMICS)


def test_atomics_that_the_oldest_cores_lack_are_found(tmp_path):
    emulated.need_tools()
    platform = platforms.load("linux-aarch64")
    source, out = tmp_path / "atomics.c", tmp_path / "atomics.so"
    source.write_text("int add(int *p) { return __atomic_fetch_add(p, 1, 5); }")
    command = [COMPILER[0], "-O2", "-shared", "-nostdlib", "-mno-outline-atomics", source]
    for arch, expected in (
        ("armv8-a", []),
        ("armv8.1-a", ["has 1 atomic instructions that ARMv8.0 lacks"]),
    ):
        subprocess.run([*command, f"-march={arch}", "-o", out], check=True)
        assert elf.complaints(out.read_bytes(), platform) == expected


def test_what_is_no_library_for_the_machine_is_told(tmp_path, platform):
    data = library(tmp_path, PLAIN, ALIGNED)
    mips = data[:18] + (8).to_bytes(2, "little") + data[20:]
    (said,) = elf.complaints(mips, platform)
    assert said == f"ET_DYN for EM_MIPS, not a library for {platform.machine}"
    cut = (0, 4, 20, 63, 100, 1000, len(data) // 2, len(data) - 100)
    for damaged in (b"PK" * 50, *(data[:length] for length in cut)):
        (said,) = elf.complaints(damaged, platform)
        assert "no ELF file" in said


# -- wheels ---------------------------------------------------------------------------------------

GOOD_NAME = "nybble-1.0-cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"


def packed(folder, name, left_out="", added=()):
    """A wheel of this name with all that one has to have."""
    modules = (wheel.ROOT / "runtime/nybble/_core").glob("*.pyx")
    names = {f"nybble/_core/{path.stem}.abi3.so" for path in modules}
    boards = (wheel.ROOT / "targets/boards").glob("*.toml")
    names |= {f"nybble/boards/{path.name}" for path in boards}
    library_bytes = library(folder, PLAIN, ALIGNED)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for entry in sorted((names | set(added)) - {left_out}):
            archive.writestr(entry, library_bytes if ".so" in entry else "")
    return folder / name


def test_a_wheel_as_it_should_be(tmp_path, platform):
    wheel.check(packed(tmp_path, GOOD_NAME), platform)


@pytest.mark.parametrize(
    ("name", "left_out", "added", "what"),
    [
        (GOOD_NAME.replace("2_17", "2_29").replace("2014", "9"), "", (), "it is not tagged"),
        (GOOD_NAME.replace("x86_64", "riscv64"), "", (), "it is not tagged"),
        (GOOD_NAME.replace("abi3", "cp311"), "", (), "it is not tagged cp311-abi3-manylinux_2_28"),
        (GOOD_NAME, "nybble/boards/rpi4.toml", (), "boards/rpi4.toml is missing"),
        (GOOD_NAME, "nybble/_core/native.abi3.so", (), "native.abi3.so is missing"),
        (GOOD_NAME, "", ("nybble.libs/libgomp-1.so",), "libgomp-1.so is no module"),
    ],
)
def test_what_is_wrong_in_a_wheel_is_told(tmp_path, platform, name, left_out, added, what):
    with pytest.raises(CrossError, match=what):
        wheel.check(packed(tmp_path, name, left_out, added), platform)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["wheel", "userland", "test"])
def test_help_has_examples(verb, capsys):
    for arguments in ([], [verb]):
        with pytest.raises(SystemExit, match="0"):
            main([*arguments, "--help"])
        said = capsys.readouterr().out
        assert f"python -m tools.cross {verb} " in said
        assert max(map(len, said.splitlines())) <= 100


# -- userlands ------------------------------------------------------------------------------------


@pytest.fixture(name="unpacked")
def fixture_unpacked(tmp_path, monkeypatch):
    """What was unpacked so far, where Debian's part is one file and PyPI's is empty."""
    suites = []

    def unpack(userland, folder):
        suites.append(userland.suite)
        (folder / "usr/bin").mkdir(parents=True)
        (folder / f"usr/bin/python{userland.python}").touch()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(userland, "unpack", unpack)
    monkeypatch.setattr(userland, "install", lambda *_: None)
    monkeypatch.setattr(userland, "compile_all", lambda *_: None)
    return suites


def with_userland(**changes):
    return platforms.parsed("x", {**FIELDS, "userland": {**USERLAND, **changes}})


def test_a_tree_is_made_once_and_anew_when_its_file_differs(unpacked, tmp_path):
    tree = userland.make(with_userland())
    assert tree.python.is_relative_to(tmp_path / "nybble/userlands")
    assert userland.make(with_userland()) == tree
    assert userland.make(with_userland(suite="trixie")).folder != tree.folder
    assert unpacked == ["bookworm", "trixie"]


def test_the_cpu_is_the_users_where_none_is_asked_for(unpacked):
    tree = userland.make(with_userland())
    assert list(tree.environment()) == ["QEMU_LD_PREFIX"]
    assert tree.environment("cortex-a53")["QEMU_CPU"] == "cortex-a53"


def test_a_tree_that_could_not_be_made_leaves_nothing(unpacked, tmp_path, monkeypatch):
    def fail(*_):
        raise CrossError("no network")

    monkeypatch.setattr(userland, "install", fail)
    with pytest.raises(CrossError, match="no network"):
        userland.make(with_userland())
    assert list((tmp_path / "nybble/userlands").iterdir()) == []


def test_a_suite_comes_from_where_this_machine_has_it(monkeypatch):
    listing = "http://here/debian/ bookworm\nhttp://here/debian/ bookworm\nhttp://it/ other\n\n"
    monkeypatch.setattr(userland, "run", lambda _: listing)
    monkeypatch.setattr(userland.shutil, "which", lambda _: "/usr/bin/apt-get")
    assert userland.mirrors("bookworm") == ["deb http://here/debian/ bookworm main"]
    assert userland.mirrors("trixie") == []
    monkeypatch.setattr(userland.shutil, "which", lambda _: None)
    assert userland.mirrors("bookworm") == []


def test_pip_is_asked_for_what_the_platforms_glibc_loads(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(userland, "run", commands.append)
    platform = with_userland(glibc="2.18")
    userland.install(platform, platform.userland, ["a.whl"], tmp_path)
    command = " ".join(map(str, commands[0]))
    assert "--platform manylinux_2_17_x --platform manylinux_2_18_x a.whl" in command
    assert "--only-binary :all:" in command


# -- boards ---------------------------------------------------------------------------------------


def doctor(*levels, built=("ref", "neon", "dotprod", "i8mm"), missing=()):
    kernels = {f"gemv_{n}": {"level": level, "lacking": []} for n, level in enumerate(levels)}
    return {"levels": list(built), "levels_not_built": list(missing), "kernels": kernels}


def test_rows_of_the_boards_level_are_counted():
    assert trial.level_rows(doctor("neon", "ref", "neon"), "neon") == 2
    assert trial.level_rows(doctor("neon", "dotprod", "i8mm"), "i8mm") == 1


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (doctor("neon", "ref"), "the best rows are of level neon, not dotprod"),
        (doctor("dotprod", "i8mm"), "the best rows are of level i8mm, not dotprod"),
        (doctor("ref", built=["ref"]), "ref are built, dotprod not"),
        (doctor("dotprod", missing=["i8mm"]), "are built, i8mm not"),
    ],
)
def test_other_rows_than_the_boards_are_a_failure(found, what):
    with pytest.raises(CrossError, match=what):
        trial.level_rows(found, "dotprod")


ANSWER = {"text": " Paris", "tokens": 2, "logits": "00ff"}


def answered(**changes):
    """What is made of a board that gives this answer, where the one here is ANSWER."""
    said = json.dumps({**ANSWER, **changes})
    board = trial.Runner(["sh", "-c", f"echo a warning; echo '{said}'"], {})
    paths = {"smollm2-135m": Path("tiny.nyb")}
    subject = trial.Subject(None, Path(), paths, {"smollm2-135m": ANSWER})
    return trial.check_answer(board, "smollm2-135m", subject)


def test_an_answer_may_differ_in_nothing():
    assert answered() == " Paris"
    for changes in ({"text": " Rome"}, {"tokens": 1}, {"logits": "00fe"}):
        with pytest.raises(CrossError, match=f"here ' Paris'.*{next(iter(changes.values()))}"):
            answered(**changes)


def test_a_command_that_fails_is_told_with_its_output():
    with pytest.raises(CrossError, match=r"exit status 3 of: sh -c .*\nout\n+err$"):
        toolbox.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert toolbox.run(["sh", "-c", "echo $A; echo err >&2"], env={"A": "out"}) == "out\n"


CHANGES_BUILDS = (
    *("NYBBLE_DEBUG", "NYBBLE_SANITIZE", "NYBBLE_ISA", "NYBBLE_PACK", "CC", "CFLAGS", "CPPFLAGS"),
    *("LDFLAGS", "LDSHARED", "ARFLAGS", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "QEMU_CPU"),
    *("PYTHONPATH", "PYTHONOPTIMIZE", "PYTEST_ADDOPTS", "_PYTHON_HOST_PLATFORM"),
    *("SETUPTOOLS_EXT_SUFFIX", "ZIG_LOCAL_CACHE_DIR"),
)


@pytest.mark.parametrize("name", [*CHANGES_BUILDS, "NYBBLE_HOME", "PIP_INDEX_URL", "HOME", "CI"])
def test_what_would_change_a_build_is_not_inherited(name, monkeypatch):
    monkeypatch.setenv(name, "given")
    see = [sys.executable, "-c", f"import os; print(os.environ.get({name!r}))"]
    assert toolbox.run(see) == ("None\n" if name in CHANGES_BUILDS else "given\n")
    assert toolbox.run(see, env={name: "asked"}) == "asked\n"


@pytest.mark.parametrize(
    ("last", "passes"),
    [
        ("7 passed in 1.02s", True),
        ("7 passed in 80.02s (0:01:20)", True),
        ("6 passed, 1 skipped in 1.02s", False),
        ("1 skipped in 1.02s", False),
        ("no tests ran in 0.01s", False),
    ],
)
def test_a_test_that_is_skipped_has_not_passed(last, passes):
    board = trial.Runner(["sh", "-c", f"echo ......s; echo '{last}'"], {})
    if passes:
        assert trial.run_tests(board, "neon") == last
    else:
        with pytest.raises(CrossError, match=f"not all have passed:\n.*\n{last}"):
            trial.run_tests(board, "neon")


def test_a_missing_program_is_told_with_its_package():
    with pytest.raises(CrossError, match="qemu-vax is missing; .*apt-get install qemu-user"):
        toolbox.program("qemu-vax", "qemu-user")


def test_the_first_board_of_each_level_is_tested():
    chosen = [board.load(id) for id in ("rpi-zero-2w", "rpi4", "rpi5", "android-i8mm")]
    tested = {level: b.id for level, b in trial.one_of_each_level(chosen).items()}
    assert tested == {"neon": "rpi-zero-2w", "dotprod": "rpi5", "i8mm": "android-i8mm"}


def test_what_came_of_a_board_as_text():
    outcome = trial.Outcome("rpi4", "cortex-a72", "neon", 48, {"m": " Paris"}, "9 passed", 7, [])
    lines = test.as_text(outcome)
    assert lines[0] == "rpi4: passed as cortex-a72, 7 s"
    assert "  answer   m: ' Paris'" in lines
    failed = test.as_text(outcome._replace(failures=["m: says"]))
    assert failed[0] == "rpi4: FAILED as cortex-a72, 7 s"
    assert failed[-1] == "  failed   m: says"


@pytest.mark.parametrize("id", [id for id in board.boards() if board.load(id).qemu_cpu])
def test_boards_that_are_emulated_have_a_platform_that_is(id):
    assert platforms.load(f"linux-{board.load(id).isa}").userland is not None
    levels = tomllib.loads((toolbox.ROOT / "targets/levels.toml").read_text())
    assert board.load(id).expect_level in levels


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["wheel", "linux-vax"], "no platform 'linux-vax'; known: linux-aarch64"),
        (["userland", "linux-x86_64"], "linux-x86_64 has no userland"),
        (["test", "toaster"], "no board 'toaster'"),
        (["test", "spacemit-k1"], "spacemit-k1 is not emulated"),
        (["test", "rpi4", "--model", "x"], "no 'x' among the models: smollm2-135m"),
        (
            ["test", "rpi4", "--wheel", "README.md"],
            "README.md is not called as a wheel for linux-aa",
        ),
        (
            ["test", "rpi4", "--wheel", WHEEL.format("x86_64")],
            "is not called as a wheel for linux-aa",
        ),
        (
            ["test", "rpi4", "--wheel", WHEEL.format("aarch64")],
            f"{WHEEL.format('aarch64')} is not there",
        ),
    ],
)
def test_what_makes_no_sense_is_exit_code_2(arguments, what, monkeypatch, capsys):
    monkeypatch.setattr(toolbox, "enter", lambda _: pytest.fail("100 MB would be installed"))
    assert main(arguments) == 2
    assert what in capsys.readouterr().err


def test_a_wheel_that_is_none_is_told(tmp_path):
    path = tmp_path / WHEEL.format("aarch64")
    platform = platforms.load("linux-aarch64")
    path.write_text("no archive")
    with pytest.raises(AskedError, match="is no wheel"):
        wheel.check_given(path, platform)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nybble/__init__.py", "")
    wheel.check_given(path, platform)


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toolbox, "enter", lambda _: pytest.fail("100 MB would be installed"))
    (tmp_path / "file").touch()
    assert main(["wheel", "linux-aarch64", "--out", f"{tmp_path}/file/x"]) == 1
    said = capsys.readouterr().err
    assert said == f"cross: wheels cannot be put into {tmp_path}/file/x: Not a directory\n"


def test_all_tests_for_boards_are_there():
    tests = [test.format(level="ref") for test in trial.TESTS]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    toolbox.run([*command, *tests])
