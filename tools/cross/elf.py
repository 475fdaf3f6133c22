"""What a shared library asks of the machine that loads it, read from its ELF file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from tools.cross.platforms import Platform

DF_TEXTREL = 4
PF_X = 1
# Atomics that ARMv8.0 (Cortex-A53, A57, A72) lacks, as (mask, word) of an instruction: CASP; CAS;
# LDADD and its kind, SWP, LDAPR.
NEW_ATOMICS = ((0xBFA07C00, 0x08207C00), (0x3FA07C00, 0x08A07C00), (0x3F200C00, 0x38200000))


def complaints(data: bytes, platform: Platform) -> list[str]:
    """Why this library is not one for the platform; [] if it is.

    Its machine; the libraries it needs; the versions of symbols (none newer than the platform's
    glibc, none of other libraries); segments that a kernel with large pages can map; no code
    that is changed while it is loaded, no executable stack, no path of the machine that built it;
    on ARM no atomics that the oldest 64-bit cores lack.
    """
    try:
        elf = ELFFile(BytesIO(data))
        if elf["e_machine"] != platform.machine or elf["e_type"] != "ET_DYN":
            return [f"{elf['e_type']} for {elf['e_machine']}, not a library for {platform.machine}"]
        found = [*_of_segments(elf, platform), *_of_dynamic(elf, platform)]
        return [*found, *_of_symbols(elf, platform), *_of_code(elf)]
    except ELFError as error:
        return [f"no ELF file that can be read: {error}"]


def _of_segments(elf: Any, platform: Platform) -> Iterator[str]:
    least = min((s["p_align"] for s in elf.iter_segments("PT_LOAD")), default=0)
    if least < platform.page_align:
        yield f"segments are aligned to {least} bytes, not {platform.page_align}"
    stacks = [s["p_flags"] for s in elf.iter_segments("PT_GNU_STACK")]
    if not stacks or any(flags & PF_X for flags in stacks):
        yield "asks for an executable stack"


def _of_dynamic(elf: Any, platform: Platform) -> Iterator[str]:
    dynamic = elf.get_section_by_name(".dynamic")
    if not isinstance(dynamic, DynamicSection):
        yield "has no dynamic section"
        return
    for tag in dynamic.iter_tags():
        kind = tag.entry.d_tag
        if kind == "DT_NEEDED" and tag.needed not in platform.needed:
            yield f"needs {tag.needed}"
        elif kind == "DT_TEXTREL" or (kind == "DT_FLAGS" and tag.entry.d_val & DF_TEXTREL):
            yield "has relocations in its text"
        elif kind in ("DT_RPATH", "DT_RUNPATH"):
            yield f"looks for libraries in {tag.rpath if kind == 'DT_RPATH' else tag.runpath}"


def _of_symbols(elf: Any, platform: Platform) -> Iterator[str]:
    newest = ".".join(map(str, platform.glibc))
    for section in elf.iter_sections():
        if not isinstance(section, GNUVerNeedSection):
            continue
        for library, versions in section.iter_versions():
            for version in versions:
                if not _is_old_enough(version.name, platform.glibc):
                    yield f"wants {version.name} of {library.name}, not at most GLIBC_{newest}"


def _of_code(elf: Any) -> Iterator[str]:
    if elf["e_machine"] != "EM_AARCH64":
        return
    code = [s for s in elf.iter_sections() if s["sh_flags"] & SH_FLAGS.SHF_EXECINSTR]
    if not code:
        yield "has no sections of code"
    if n := sum(new_atomics(section.data()) for section in code):
        yield f"has {n} atomic instructions that ARMv8.0 lacks"


def new_atomics(code: bytes) -> int:
    """How many of the instruction words are NEW_ATOMICS."""
    words = struct.iter_unpack("<I", code[: len(code) // 4 * 4])
    return sum(any(word & mask == value for mask, value in NEW_ATOMICS) for (word,) in words)


def _is_old_enough(version: str, glibc: tuple[int, int]) -> bool:
    name, _, numbers = version.partition("_")
    parts = numbers.split(".")
    if name != "GLIBC" or not all(part.isdigit() for part in parts):
        return False
    return tuple(map(int, parts)) <= (*glibc, 0)
