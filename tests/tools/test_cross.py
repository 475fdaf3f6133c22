"""Cross-building: what a platform's file may say, and what is found in libraries and wheels.

Libraries are small ones that the machine's compiler makes here, each with one thing that is wrong.
"""

from __future__ import annotations

import platform as machine
import subprocess
import zipfile

import pytest

from tools.cross import AskedError, CrossError, elf, platforms, wheel
from tools.cross.__main__ import main

GLIBC_HERE = tuple(map(int, machine.libc_ver()[1].split(".")))[:2]
FIELDS = {
    "zig": "x86_64-linux-gnu.2.28",
    "machine": {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}.get(machine.machine(), ""),
    "glibc": "2.28",
    "page_align": 65536,
    "needed": ["libc.so.6", "libm.so.6", "libpthread.so.0"],
}
USERLAND = {
    "qemu": "qemu-aarch64",
    "arch": "arm64",
    "suite": "bookworm",
    "python": "3.11",
    "include": ["python3"],
    "packages": ["pytest==8.4.2"],
}


# -- platforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", platforms.platforms())
def test_every_platform_is_read(id):
    platform = platforms.load(id)
    assert platform.zig.startswith(platform.cpu)
    assert platform.tags()[-1] == f"manylinux_2_{platform.glibc[1]}_{platform.cpu}"


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
        ({"userland": {"qemu": "qemu-aarch64"}}, "is missing"),
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


@pytest.mark.parametrize("verb", [[], ["wheel"]])
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*verb, "--help"])
    assert "python -m tools.cross wheel linux-aarch64" in capsys.readouterr().out
