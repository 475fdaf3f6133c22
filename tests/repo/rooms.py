"""The rooms and their one arrow, as a check over the files of a tree.

    examples, tools, tests -> nybble (Python) -> nybble._core (Cython) -> runtime/engine (C)
        -> targets -> kernels_* -> kernels_ref/nyb_kernels.h

A file names only rooms to its right, or its own. `broken_rules(root)` yields one sentence a
breach, which begins with `file:line:`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CONTRACT = "kernels_ref/nyb_kernels.h"
# The float operations, written once on lanes: compiled by every room of kernels.
FLOAT_OPERATIONS = "kernels_ref/float_ops.h"
ERRORS = "nybble.errors"  # names nothing, so all Python and Cython may name it
EXTERNS = ("kernels.pxd", "engine.pxd")  # the C contract: structs, constants, signatures
DOORS = "native.pyx"  # the only module that refers to C symbols

ARROW = ["scripts", "nybble", "nybble._core", "runtime/engine", "targets", "kernels", "contract"]
SCRIPTS = ("examples", "tools", "tests")

# Standard headers that a room may include. Kernels know no threads, allocation, files or
# environment; the engine knows no file; neither prints.
KERNEL_HEADERS = {
    "arm_neon.h",
    "float.h",
    "immintrin.h",
    "inttypes.h",
    "limits.h",
    "math.h",
    "riscv_vector.h",
    "stdbool.h",
    "stddef.h",
    "stdint.h",
    "string.h",
}
NOT_IN_THE_ENGINE = {"Python.h", "fcntl.h", "stdio.h", "sys/mman.h", "sys/stat.h"}

_INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)[">]')
_IMPORT = re.compile(r"\s*c?import\s+([\w., ]+)")
_FROM = re.compile(r"\s*from\s+(\.*[\w.]*)\s+c?import\s+\(?([\w, *]*)")
_EXTERN = re.compile(r'\s*cdef\s+extern\s+from\s+["<]([^">]+)')
_C_FUNCTION = re.compile(r"\b(nyb_\w+)\s*\(")
_INLINE = re.compile(r"^static inline [\w *]*?\b(nyb_\w+)\(", re.MULTILINE)
_NOT_CODE = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|\#[^\n]*",
    re.DOTALL,
)


def broken_rules(root: Path) -> Iterator[str]:
    """Yield a sentence for each line of the tree at `root` that breaks a rule."""
    externs = _c_functions(root)
    tops = [root / top for top in (*SCRIPTS, "runtime", "targets")]
    for path in sorted(p for top in [*tops, *root.glob("kernels_*")] for p in top.rglob("*")):
        name = path.relative_to(root).as_posix()
        room = room_of(name)
        if room is None or not path.is_file() or _is_generated(path):
            continue
        if path.suffix in (".py", ".pyi"):
            yield from _check_modules(name, room, _python_imports(path, name))
        elif path.suffix in (".pyx", ".pxd", ".pxi"):
            yield from _check_modules(name, room, _cython_imports(path, name))
            yield from _check_c_symbols(path, name, externs)
        elif path.suffix in (".c", ".h", ".def"):
            yield from _check_includes(path, name, room, root)


def room_of(name: str) -> str | None:
    """The room that the file `name`, a path from the root, lies in; None for none."""
    if name == CONTRACT:
        return "contract"
    first = name.split("/")[0]
    if first in SCRIPTS:
        return "scripts"
    if first == "targets":
        return "targets"
    if first.startswith("kernels_"):
        return "kernels"
    for prefix, room in (
        ("runtime/engine/", "runtime/engine"),
        ("runtime/nybble/_core/", "nybble._core"),
        ("runtime/nybble/", "nybble"),
    ):
        if name.startswith(prefix):
            return room
    return None


def _is_generated(path: Path) -> bool:
    """Whether Cython wrote it: C beside a .pyx of the same name."""
    return path.suffix == ".c" and path.with_suffix(".pyx").exists()


def _is_left_of(room: str, other: str) -> bool:
    return ARROW.index(room) <= ARROW.index(other)


def _room_of_module(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in SCRIPTS:
        return "scripts"
    if parts[0] != "nybble":
        return None
    rooms = {"_core": "nybble._core", "targets": "targets"}
    return rooms.get(parts[1], "nybble") if len(parts) > 1 else "nybble"


def _check_modules(name: str, room: str, imports: Iterator[tuple[int, str]]) -> Iterator[str]:
    for line, module in imports:
        other = _room_of_module(module)
        if other is None or module == ERRORS or module.startswith(ERRORS + "."):
            continue
        if not _is_left_of(room, other):
            yield f"{name}:{line}: {room} names {module}, which is to its left"


def _python_imports(path: Path, name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = _absolute("." * node.level + (node.module or ""), name)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _cython_imports(path: Path, name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_code(path).splitlines(), 1):
        if match := _FROM.match(line):
            module = _absolute(match[1], name)
            for part in match[2].split(",") or [""]:
                yield number, f"{module}.{part.split(' as ')[0].strip()}".rstrip(".")
        elif match := _IMPORT.match(line):
            for part in match[1].split(","):
                yield number, part.split(" as ")[0].strip()


def _absolute(module: str, name: str) -> str:
    """A module's full name; leading dots count from the package that the file `name` is in."""
    level = len(module) - len(module.lstrip("."))
    if level == 0:
        return module
    package = name.removeprefix("runtime/").split("/")[:-level]
    return ".".join([*package, module[level:]]).rstrip(".")


def _code(path: Path) -> str:
    """The file without comments and strings; line numbers stay."""
    return _NOT_CODE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())


def _c_functions(root: Path) -> set[str]:
    """The C functions that the extern files declare and a library holds (inline ones are not)."""
    core = root / "runtime/nybble/_core"
    files = [core / name for name in EXTERNS if (core / name).exists()]
    declared = {name for path in files for name in _C_FUNCTION.findall(_code(path))}
    headers = [*root.glob("runtime/engine/*.h"), *root.glob("targets/*.h")]
    inline = {name for path in headers for name in _INLINE.findall(path.read_text())}
    return declared - inline


def _check_c_symbols(path: Path, name: str, functions: set[str]) -> Iterator[str]:
    if path.name in EXTERNS:
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = _EXTERN.match(line)
        if match and (match[1] == "*" or match[1].startswith("nyb_")):
            yield f"{name}:{number}: cdef extern; only {' and '.join(EXTERNS)} declare C"
    if path.name == DOORS:
        return
    for number, line in enumerate(_code(path).splitlines(), 1):
        for symbol in sorted(functions.intersection(re.findall(r"\w+", line))):
            yield f"{name}:{number}: refers to the C symbol {symbol}; only {DOORS} does"


def _check_includes(path: Path, name: str, room: str, root: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = _INCLUDE.match(line)
        if not match:
            continue
        where, included = f"{name}:{number}:", match[2]
        found = _find(included, path, root)
        if found is None and match[1] == "<":
            yield from _check_standard_header(where, room, included)
        elif found is None:
            yield f'{where} includes "{included}", which is in no room'
        elif not _is_left_of(room, _room(found)):
            yield f"{where} {room} includes {found}, which is to its left"
        elif room == "kernels" and not _may_include(name, found):
            yield (
                f"{where} includes {found}; of another room of kernels only"
                f" {CONTRACT} and the float operations may be included"
            )


def _check_standard_header(where: str, room: str, header: str) -> Iterator[str]:
    if room in ("kernels", "contract") and header not in KERNEL_HEADERS:
        yield f"{where} kernels know no <{header}>: no threads, allocation, files or environment"
    if room == "runtime/engine" and header in NOT_IN_THE_ENGINE:
        yield f"{where} the engine knows no <{header}>: no Python, no file, no printing"
    if room == "targets" and header == "Python.h":
        yield f"{where} targets know no Python"


def _find(included: str, path: Path, root: Path) -> str | None:
    """The path from the root of an included file: beside the includer, else in a C room."""
    folders = [path.parent, root / "runtime/engine", root / "targets", *root.glob("kernels_*")]
    for folder in folders:
        file = (folder / included).resolve()
        if file.is_file() and file.is_relative_to(root.resolve()):
            return file.relative_to(root.resolve()).as_posix()
    return None


def _room(name: str) -> str:
    room = room_of(name)
    assert room is not None, f"{name} is in no room"
    return room


def _may_include(name: str, included: str) -> bool:
    is_own = name.split("/")[0] == included.split("/")[0]
    return is_own or included == CONTRACT or included == FLOAT_OPERATIONS
