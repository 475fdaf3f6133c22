"""Where a file's chat template runs: jinja2's sandbox, with less in it and a budget.

A template comes with the model and is as hostile as the rest of the file. jinja2's sandbox keeps it
from Python's internals; what is added here keeps it from taking the machine's time and memory:

  * a budget of steps for one rendering: a round of a loop, a call and an output cost one, sixteen
    things that the template says there cost one more, and so do 64 bytes of a string or a list that
    is made. So a rendering takes at most 16 MB besides small objects, and a second or two
  * what work there is in a value is paid for whenever it is compared, hashed or written, and none
    is nested deeply
  * only filters, methods, attributes and globals that chat templates need; none pads to a width,
    and no arguments after a star
  * no string formatting by `%`, and by `.format` only without widths
  * nothing is written, and named in an error, with more in it than was paid for: no namespace, no
    view of a dict, no name of many characters

This module imports jinja2, so it is itself imported when a template is first used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from string import Formatter
from types import CodeType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.lexer
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.exceptions import SecurityError
from markupsafe import Markup

from nybble.tokenizer.charged import Charged, count_lines
from nybble.tokenizer.metering import (
    OBJECT,
    REFERENCE,
    BudgetExceeded,
    Metered,
    check_bits,
    size_of,
    width_of,
)

MAX_NODES = 4_000  # of its tree, up to 11 KB each while it is compiled; the largest seen has 1,300
MAX_DEPTH = 100  # of its tree; the deepest seen has 28
MAX_NESTED = 24  # brackets or blocks one in another while it is read; the most seen is 10
MAX_SIGNS = 200  # of an expression: what its reader calls itself for; the most seen is 26
MAX_OUTPUT = 1 << 18  # characters of a rendering, and
OUTPUT_OF_INPUT = 8  # so many times the characters of what is rendered
ESCAPED = 5  # times as long becomes a `"` that is added to what `safe` gave
MAX_CALLS = 200  # of macros and loops one within another; schemas are nested by a few dozen
MAX_NAME = 200  # characters of what is looked up, in anything but a dict, or said in an error

# What ends with an `end...` of its own.
BLOCKS = frozenset("for if macro call filter set block with generation".split())
FILTERS = frozenset(
    "abs bool capitalize count d default dictsort e escape first float groupby indent int items"
    " join last length list lower map max min reject rejectattr replace reverse round safe select"
    " selectattr sort string sum title trim unique upper".split()
)
# Those that take anything for text, and write it down first.
WRITING = frozenset("capitalize e escape lower safe title upper".split())
# Those that compare what they are given, or its elements.
COMPARING = frozenset("dictsort groupby max min sort unique".split())
# Those that make a list of a string's characters or words, and those that take them one by one.
LISTING = frozenset("groupby sort title unique".split())
LAZY = frozenset("map reject rejectattr select selectattr unique".split())
# Those that can look something up in each element.
WITH_ATTRIBUTE = frozenset("groupby map max min rejectattr selectattr sort sum unique".split())
COMPARING_TESTS = (
    "== != < <= > >= eq equalto filter ge greaterthan gt in le lessthan lt ne test".split()
)
METHODS = {
    str: frozenset(
        "capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit"
        " islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix"
        " removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith"
        " strip swapcase title upper".split()
    ),
    dict: frozenset("get items keys values".split()),
    list: frozenset("count index".split()),
    tuple: frozenset("count index".split()),
}


class TemplateRaised(Exception):
    """The template called raise_exception: it cannot render these messages."""


def compile_template(source: str) -> CodeType:
    """A template's source, compiled for `Sandbox.render`; jinja2.TemplateSyntaxError."""
    return Sandbox().compile(source, filename="<chat template>")


class _Generation(jinja2.ext.Extension):
    """transformers' tag around what the assistant says: here it writes what is inside."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Shallow(jinja2.ext.Extension):
    """Refuses nesting before it is read: the reader calls itself for each level, and Python's limit
    of that may have been raised by the program, or lie beyond a thread's stack."""

    priority = 1000  # behind the others

    def filter_stream(self, stream: Any) -> Iterator[jinja2.lexer.Token]:
        brackets = blocks = signs = 0
        begun = None  # the tag that is being read
        is_first = False
        for token in stream:
            kind = token.type
            if kind in ("variable_begin", "block_begin"):
                begun, is_first, signs = None, kind == "block_begin", 0
            elif is_first:
                begun, is_first = token.value, False
                blocks += 1 if begun in BLOCKS else -1 if begun[3:] in BLOCKS else 0
            elif kind in ("lparen", "lbracket", "lbrace"):
                brackets += 1
            elif kind in ("rparen", "rbracket", "rbrace"):
                brackets -= 1
            elif kind in ("add", "sub") or token.value in ("not", "else"):
                signs += 1
            elif (
                kind == "assign" and begun == "set" and not brackets
            ):  # no block: it ends with its tag
                begun = None
                blocks -= 1
            if max(brackets, blocks) > MAX_NESTED or signs > MAX_SIGNS:
                raise BudgetExceeded("it is nested too deeply")
            yield token


class Sandbox(Charged, jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The environment of one rendering."""

    _calls = 0  # of macros and loops that are under way
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are computed when they are needed, within the budget
            finalize=self._finalize,
            undefined=_Undefined,
            extensions=[_Generation, _Shallow, "jinja2.ext.loopcontrols"],
        )
        filters = {
            name: self.charging(
                self.filters[name],
                lists=name in LISTING,
                lazy=name in LAZY,
                has_attribute=name in WITH_ATTRIBUTE,
            )
            for name in FILTERS & {*self.filters}
        }
        for name in COMPARING & {*filters}:
            filters[name] = self.weighing(self.comparing(filters[name]))
        for name in WRITING & {*filters}:
            filters[name] = self.writing(filters[name])
        for name in ("e", "escape"):
            filters[name] = self.escaping(filters[name])
        tests: dict[str, Any] = self.tests
        for name in COMPARING_TESTS:
            tests[name] = self.comparing(tests[name])
        for name in ("lower", "upper"):
            tests[name] = self.charging(self.writing(tests[name]))
        for name in ("divisibleby", "even", "odd"):
            tests[name] = self.of_number(tests[name])
        filters["int"] = self.bounded_int(filters["int"])
        filters["list"] = self.list_of
        filters["round"] = self.bounded_round(filters["round"])
        filters["sum"] = self.sum_of_numbers(filters["sum"])
        filters["trim"] = self.trim
        filters["join"] = self._join_filter
        filters["string"] = self.text_of
        filters["replace"] = self.replace
        filters["indent"] = self.indent(self.filters["indent"])
        filters["tojson"] = self.tojson
        self.filters.clear()
        self.filters.update(filters)
        self.globals.clear()
        self.globals.update(
            namespace=Namespace,
            dict=self.dict_of,
            range=self.range_of,
            raise_exception=self._raise_exception,
            strftime_now=_strftime_now,
        )

    def render(self, code: CodeType, variables: dict[str, Any], spoken: int = 0) -> str:
        """The text. spoken : how many characters the messages and variables have."""
        template = jinja2.Template.from_code(self, code, self.globals)
        most = MAX_OUTPUT + OUTPUT_OF_INPUT * spoken
        pieces = []
        written = 0
        for piece in template.generate(variables):
            written += len(piece)
            if written > most:
                raise BudgetExceeded(f"it writes more than {most} characters")
            pieces.append(piece)
        return "".join(pieces)

    # ---- What costs ----

    def _finalize(self, value: Any) -> Any:
        """What a template writes: text goes through as it is."""
        self.charge()
        return value if isinstance(value, str) else self.text_of(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        check_size(tree)
        Metered().visit(tree)
        return tree

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.charge(REFERENCE * (len(args) + len(kwargs)))
        if isinstance(function, jinja2.runtime.Macro):  # which pays for what it does
            return self._call_within(context, function, *args, **kwargs)
        args = tuple(map(self.compared, args))
        kwargs = {name: self.compared(value) for name, value in kwargs.items()}
        if isinstance(function, jinja2.runtime.LoopContext):  # a loop that goes on in another list
            return self._call_within(context, function, *map(self.counted, args), **kwargs)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (list, tuple)):  # count and index compare
            self.weigh(owner)
        if isinstance(owner, str):
            for name in ("_loop_vars", "_block_vars"):  # compiled templates pass them to context
                kwargs.pop(name, None)
            name = function.__name__
            if name in ("replace", "join", "split", "rsplit", "strip", "lstrip", "rstrip"):
                return getattr(self, name)(owner, *args, **kwargs)
            if name == "splitlines":
                self.charge(OBJECT * count_lines(owner))
            if name in ("rfind", "rindex", "rpartition"):
                self.search_backwards(owner, *args[:1])
            self.charge(width_of(owner))
        return super().call(context, function, *args, **kwargs)

    def _call_within(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A macro or a loop again, which may call itself. Python's own limit is its program's."""
        if self._calls == MAX_CALLS:
            raise BudgetExceeded("it is nested too deeply")
        self._calls += 1
        try:
            return super().call(context, function, *args, **kwargs)
        finally:
            self._calls -= 1

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.charge()
        if not isinstance(argument, str):
            self.weigh(argument, is_written=True)  # it is hashed, or written in an error
        elif len(argument) > MAX_NAME and not isinstance(obj, dict):
            raise BudgetExceeded(f"it looks for a name of {len(argument)} characters")
        value = super().getitem(obj, argument)
        if self.weighs_items:
            self.weigh(value)
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        for side in (left, right):
            if isinstance(side, int):
                check_bits(side.bit_length())
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            escaped = ESCAPED if isinstance(left, Markup) or isinstance(right, Markup) else 1
            self.charge((size_of(left) + size_of(right)) * escaped)
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("strings are not formatted by % here")
        elif operator == "*":
            if isinstance(left, int) and isinstance(right, sized):
                left, right = right, left
            if isinstance(left, sized) and isinstance(right, int):
                self.charge(size_of(left) * max(0, right))
            elif isinstance(left, int) and isinstance(right, int):
                check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_bits(left.bit_length() * max(0, right))
        return super().call_binop(context, operator, left, right)

    # ---- What a template may reach ----

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return isinstance(obj, REACHABLE) and bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") != "format":
            return None
        formatter = _PlainFormatter(self)

        def format(*args: Any, **kwargs: Any) -> str:
            self.charge(OBJECT * (owner.count("{") + owner.count("}")))  # of each becomes a piece
            return formatter.vformat(owner, args, kwargs)

        return format

    def _raise_exception(self, message: Any = "") -> None:
        raise TemplateRaised(self.text_of(message))

    def _join_filter(self, items: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in self.counted(items)]
        return self.join(self.text_of(d), items)


def check_size(tree: jinja2.nodes.Node) -> None:
    """A level at a time: whatever calls itself for a node's children comes later."""
    level, nodes = [tree], 0
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
        nodes += len(level)
        if nodes > MAX_NODES:
            raise BudgetExceeded(f"it has more than {MAX_NODES} expressions and statements")
    if level:
        raise BudgetExceeded("it is nested too deeply")


class Namespace(jinja2.utils.Namespace):
    """One that is not written with all that is in it: an error may have it in its text."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Undefined(jinja2.Undefined):
    """What is not there. What it was looked for by may be anything: it is named if it is short."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = jinja2.utils.missing,
        name: Any = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        is_short = name is None or isinstance(name, int)
        if not is_short and not (isinstance(name, str) and len(name) <= MAX_NAME):
            name = type(name).__name__
        super().__init__(hint, obj, name, exc)


class _PlainFormatter(Formatter):
    """str.format with fields by number or name, nothing inside them and no widths."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if len(field_name) > MAX_NAME:
            raise BudgetExceeded(f"it has a format field of {len(field_name)} characters")
        if "." in field_name or "[" in field_name:
            raise SecurityError(f"format field {field_name!r} looks inside a value")
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is not None:
            raise SecurityError(f"format field with !{conversion}")
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec:
            raise SecurityError(f"format field with {format_spec[:40]!r}")
        text = self._sandbox.text_of(value)
        self._sandbox.charge(width_of(text))
        return text


# Whose attributes a template may ask for, besides those in METHODS.
REACHABLE = (
    jinja2.Undefined,
    jinja2.runtime.LoopContext,
    jinja2.runtime.Macro,
    jinja2.utils.Namespace,
)


def _strftime_now(format: str) -> str:
    if len(format) > 64 or any(c.isdigit() for c in format):
        raise BudgetExceeded(f"it asks for the time as {format[:80]!r}")
    return time.strftime(format)
