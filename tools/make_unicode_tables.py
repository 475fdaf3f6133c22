"""Makes runtime/engine/nyb_unicode_data.c, the frozen character classes that tokenizing reads.

    python tools/make_unicode_tables.py [--data UnicodeData.txt] [--output FILE]

The version is fixed: llama.cpp's tokenizers use Unicode 15.1.0 (its table of categories equals
that version's at every code point), and other classes would give other tokens. The input is, in
this order: a UnicodeData.txt of that version, the `unicodedata2` package 15.1.0, or Python's own
`unicodedata` where it is of that version (Python 3.13).

Two stages: 8,704 block numbers, one for every 128 code points, and the distinct blocks of one
byte of class bits a code point.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

VERSION = "15.1.0"
CODE_POINTS = 0x110000
BLOCK = 128
OUTPUT = Path(__file__).resolve().parent.parent / "runtime" / "engine" / "nyb_unicode_data.c"

# The bits of nyb_unicode.h.
LETTER, NUMBER, SPACE, MARK, PUNCTUATION, SYMBOL, UPPER, LOWER = (1 << bit for bit in range(8))
MAJOR = {"L": LETTER, "N": NUMBER, "M": MARK, "P": PUNCTUATION, "S": SYMBOL}
CASE = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER}
# White_Space of PropList.txt is every separator (Z*) and these controls.
SPACE_CONTROLS = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}


class NoDataError(Exception):
    """This machine has no data of the version that the tables need."""


def categories_of_file(path: Path) -> Callable[[int], str]:
    """General categories from a UnicodeData.txt; what it does not name is Cn."""
    categories: dict[int, str] = {}
    first = 0
    for line in path.read_text(encoding="ascii").splitlines():
        number, name, category = line.split(";")[:3]
        code = int(number, 16)
        if name.endswith(", First>"):
            first = code
        start = first if name.endswith(", Last>") else code
        for point in range(start, code + 1):
            categories[point] = category
    # 15.1 added 627 characters to 15.0 and this is one of them; 16.0 added U+1C89.
    if 0x2EBF0 not in categories or 0x1C89 in categories:
        raise NoDataError(f"{path} is not of Unicode {VERSION}")
    return lambda code: categories.get(code, "Cn")


def categories_of_module() -> Callable[[int], str]:
    """General categories from whichever Python module has this version."""
    seen = []
    for name in ("unicodedata2", "unicodedata"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if module.unidata_version == VERSION:
            return lambda code: str(module.category(chr(code)))
        seen.append(f"{name} is of Unicode {module.unidata_version}")
    raise NoDataError(f"{'; '.join(seen)}; try: pip install unicodedata2=={VERSION}")


def class_bits(code: int, category: str) -> int:
    bits = MAJOR.get(category[0], 0) | CASE.get(category, 0)
    if category[0] == "Z" or code in SPACE_CONTROLS:
        bits |= SPACE
    return bits


def make(category_of: Callable[[int], str]) -> str:
    """The text of nyb_unicode_data.c."""
    classes = bytes(class_bits(code, category_of(code)) for code in range(CODE_POINTS))
    numbers: dict[bytes, int] = {}
    stage1 = []
    for start in range(0, CODE_POINTS, BLOCK):
        block = classes[start : start + BLOCK]
        stage1.append(numbers.setdefault(block, len(numbers)))
    assert len(numbers) <= 256
    blocks = ",\n".join("{" + rows(block) + "}" for block in numbers)
    size = len(stage1) + BLOCK * len(numbers)
    return f"""/* SPDX-License-Identifier: MIT
 * Character classes of Unicode {VERSION}, the version of the leader's tokenizers.
 * Data, made by tools/make_unicode_tables.py; change it there.
 */
#include "nyb_unicode.h"

/* clang-format off */
const uint8_t nyb_unicode_block[NYB_UNICODE_POINTS / NYB_UNICODE_BLOCK] = {{
{rows(stage1)}
}};

const uint8_t nyb_unicode_class[{len(numbers)}][NYB_UNICODE_BLOCK] = {{
{blocks}
}};
/* clang-format on */
/* {size} bytes */
"""


def rows(values: bytes | list[int]) -> str:
    return ",\n".join(
        ",".join(str(value) for value in values[i : i + 32]) for i in range(0, len(values), 32)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="UnicodeData.txt of Unicode " + VERSION)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    source = categories_of_file(options.data) if options.data else categories_of_module()
    options.output.write_text(make(source), encoding="ascii")
    print(f"Unicode {VERSION}: {options.output}")


if __name__ == "__main__":
    main()
