"""Where a file's chat template runs: jinja2's sandbox, with less in it and a budget.

A template comes with the model and is as hostile as the rest of the file. jinja2's sandbox keeps it
from Python's internals; what is added here keeps it from taking the machine's time and memory:

  * a budget of steps for one rendering: a round of a loop, a call and an output cost one, sixteen
    things that the template says there cost one more, and so do 64 bytes of a string or a list that
    is made. So a rendering takes at most 16 MB besides small objects, and a second or two
  * what work there is in a value is paid for whenever it is compared, hashed or written, and none
    is nested deeply
  * only filters, methods, attributes and globals that chat templates need; none pads to a width
  * no string formatting by `%`, and by `.format` only without widths

This module imports jinja2, so it is itself imported when a template is first used.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from string import Formatter
from types import CodeType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.visitor
from jinja2.exceptions import SecurityError

MAX_SOURCE = 1 << 16  # characters of a template; the longest known has 30,000
MAX_NODES = 4_000  # of its tree, up to 11 KB each while it is compiled; the largest seen has 1,300
MAX_OUTPUT = 1 << 18  # characters of a rendering, and
OUTPUT_OF_INPUT = 8  # so many times the characters of what is rendered
MAX_STEPS = 250_000
BYTES_A_STEP = 64
NODES_A_STEP = 16
REFERENCE = 8  # bytes that a list takes for an element
OBJECT = 64  # bytes that a small object takes, about
MAX_NESTING = 100
MAX_INDENT = 16
MAX_INT_BITS = 1 << 10
MAX_DIGITS = 400  # of a number in a string, and of a rounding
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # str.splitlines' own

FILTERS = frozenset(
    "abs bool capitalize count d default dictsort e escape first float groupby indent int items"
    " join last length list lower map max min reject rejectattr replace reverse round safe select"
    " selectattr sort string sum title trim unique upper".split()
)
# Those that take anything for text, and write it down first.
WRITING = frozenset("capitalize e escape lower safe title upper".split())
# Those that compare what they are given, or its elements.
COMPARING = frozenset("dictsort groupby max min sort unique".split())
COMPARING_TESTS = "== != < <= > >= eq equalto ge greaterthan gt in le lessthan lt ne".split()
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


class BudgetExceeded(Exception):
    """The template asks for more time or memory than it may have."""


class TemplateRaised(Exception):
    """The template called raise_exception: it cannot render these messages."""


def compile_template(source: str) -> CodeType:
    """A template's source, compiled for `Sandbox.render`; jinja2.TemplateSyntaxError."""
    if len(source) > MAX_SOURCE:
        raise BudgetExceeded(f"it has {len(source)} characters, {MAX_SOURCE} are the most")
    return Sandbox().compile(source, filename="<chat template>")


class _Generation(jinja2.ext.Extension):
    """transformers' tag around what the assistant says: here it writes what is inside."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The environment of one rendering."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are computed when they are needed, within the budget
            finalize=self._finalize,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        self.steps_left = MAX_STEPS
        filters = {name: self._charging(self.filters[name]) for name in FILTERS & {*self.filters}}
        for name in COMPARING & {*filters}:
            filters[name] = self._comparing(self.filters[name])
        for name in COMPARING_TESTS:
            compare: Any = self.tests[name]
            self.tests[name] = self._comparing(compare)
        for name in WRITING & {*filters}:
            filters[name] = self._writing(filters[name])
        filters["int"] = self._int(filters["int"])
        filters["list"] = self._list
        filters["round"] = self._round(filters["round"])
        filters["sum"] = self._sum(filters["sum"])
        filters["trim"] = self._trim
        filters["join"] = self._join_filter
        filters["string"] = self.text_of
        filters["replace"] = self._replace
        filters["indent"] = self._indent(self.filters["indent"])
        filters["tojson"] = self._tojson
        self.filters.clear()
        self.filters.update(filters)
        namespace = self.globals["namespace"]
        self.globals.clear()
        self.globals.update(
            namespace=namespace,
            dict=self._dict,
            range=self._range,
            raise_exception=self._raise_exception,
            strftime_now=_strftime_now,
        )

    def render(self, code: CodeType, variables: dict[str, Any], spoken: int = 0) -> str:
        """The text. spoken : how many characters the messages and variables have."""
        template = jinja2.Template.from_code(self, code, self.globals)
        most = MAX_OUTPUT + OUTPUT_OF_INPUT * spoken
        pieces = []
        size = 0
        for piece in template.generate(variables):
            size += len(piece)
            if size > most:
                raise BudgetExceeded(f"it writes more than {most} characters")
            pieces.append(piece)
        return "".join(pieces)

    # ---- The budget ----

    def charge(self, nbytes: int = 0) -> None:
        """Takes a step, and more for making something of so many bytes; before it is made."""
        self.steps_left -= 1 + nbytes // BYTES_A_STEP
        if self.steps_left < 0:
            raise BudgetExceeded(f"it takes more than {MAX_STEPS} steps")

    def work(self, nodes: int) -> str:
        """Pays for going through so many of the template's nodes: a body of a loop or macro."""
        self.charge(nodes * BYTES_A_STEP // NODES_A_STEP)
        return ""

    def counted(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """What a loop goes over, a step a round."""
        for item in iterable:
            self.charge()
            yield item

    def text_of(self, value: Any) -> str:
        """str(value), at the price of what is in it: a small list can hold a large one often."""
        if isinstance(value, str):
            return str(value)
        if not isinstance(value, WRITABLE):
            raise SecurityError(f"a {type(value).__name__} is no text")
        self._weigh(value)
        return str(value)

    def made(self, value: Any, depth: int = 0) -> Any:
        """A list, tuple or dict that the template writes, at the price of its lists, tuples and
        dicts down to the last: one that holds another twice counts it twice."""
        self._check_nesting(depth)
        self.charge(REFERENCE * len(value))
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, (list, tuple, dict)):
                self.made(item, depth + 1)
        return value

    def _weigh(self, value: Any, depth: int = 0) -> None:
        """Pays for all that is in a value."""
        if isinstance(value, str):
            self.charge(_width(value))
            return
        self.charge()
        if isinstance(value, (list, tuple, dict)):
            self._check_nesting(depth)
            for item in value:
                self._weigh(item, depth + 1)
            for item in value.values() if isinstance(value, dict) else ():
                self._weigh(item, depth + 1)

    def _check_nesting(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise BudgetExceeded(f"it nests values more than {MAX_NESTING} deep")

    def concat(self, pieces: Iterable[str]) -> str:
        """What a macro or a block writes."""
        texts = []
        for piece in pieces:
            self.charge(_width(piece))
            texts.append(piece)
        return "".join(texts)

    def compared(self, value: Any) -> Any:
        """A side of a comparison, at the price of all that is in it: a list that holds a list
        twice, which holds a list twice, and so on, is compared for ever."""
        if isinstance(value, (str, list, tuple, dict)):
            self._weigh(value)
        return value

    def searched(self, value: Any) -> Any:
        """The right side of `in`; a dict is looked up, the others are gone through."""
        return value if isinstance(value, dict) else self.compared(value)

    def sliced(self, value: Any) -> Any:
        """What a slice is taken of."""
        self.charge(_size(value))
        return value

    def _finalize(self, value: Any) -> Any:
        """What a template writes: text goes through as it is."""
        self.charge()
        return value if isinstance(value, str) else self.text_of(value)

    def concatenated(self, parts: list[Any]) -> str:
        """The operator ~."""
        texts = [self.text_of(part) for part in parts]
        self.charge(sum(map(_width, texts)))
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        nodes = sum(1 for _ in tree.find_all(jinja2.nodes.Node))
        if nodes > MAX_NODES:
            raise BudgetExceeded(f"it has {nodes} expressions and statements, {MAX_NODES} at most")
        _Metered().visit(tree)
        return tree

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.charge(REFERENCE * (len(args) + len(kwargs)))
        if isinstance(function, jinja2.runtime.Macro):  # which pays for what it does
            return super().call(context, function, *args, **kwargs)
        for value in (*args, *kwargs.values()):
            self.compared(value)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (list, tuple)):  # count and index compare
            self._weigh(owner)
        if isinstance(owner, str):
            for name in ("_loop_vars", "_block_vars"):  # compiled templates pass them to context
                kwargs.pop(name, None)
            name = function.__name__
            if name in ("replace", "join", "split", "rsplit", "strip", "lstrip", "rstrip"):
                return getattr(self, f"_{name}")(owner, *args, **kwargs)
            if name == "splitlines":
                self.charge(OBJECT * sum(map(owner.count, LINE_ENDS)))
            if name in ("rfind", "rindex", "rpartition"):
                self._search_backwards(owner, *args[:1])
            self.charge(_width(owner))
        return super().call(context, function, *args, **kwargs)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            self._weigh(argument)  # it is hashed
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        for side in (left, right):
            if isinstance(side, int):
                _check_bits(side.bit_length())
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            self.charge(_size(left) + _size(right))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("strings are not formatted by % here")
        elif operator == "*":
            if isinstance(left, int) and isinstance(right, sized):
                left, right = right, left
            if isinstance(left, sized) and isinstance(right, int):
                self.charge(_size(left) * max(0, right))
            elif isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(0, right))
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
        return lambda *args, **kwargs: str(formatter.vformat(owner, args, kwargs))

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self.charge(len(numbers))
        return numbers

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        for value in args:
            self.charge(OBJECT * _length(value))
        return self.made(dict(*args, **kwargs))  # type: ignore[no-any-return]

    def _raise_exception(self, message: Any = "") -> None:
        raise TemplateRaised(self.text_of(message))

    def _charging(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that pays for the size of what it is given, and for the text that it makes."""
        at = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charging(*args: Any, **kwargs: Any) -> Any:
            value = args[at]
            self.charge(_size(value))
            if isinstance(value, Iterator):
                args = (*args[:at], self.counted(value), *args[at + 1 :])
            made = function(*args, **kwargs)
            if isinstance(made, str) and made is not value:
                self.charge(_width(made))
            return made

        return charging

    def _writing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that takes anything for text."""

        @functools.wraps(function)
        def writing(value: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(value, str):
                value = self.text_of(value)
            return function(value, *args, **kwargs)

        return writing

    def _int(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(value, str) and len(value) > MAX_DIGITS:
                raise BudgetExceeded(f"it reads a number of {len(value)} digits")
            return function(value, *args, **kwargs)

        return bounded

    def _round(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def bounded(value: Any, precision: int = 0, method: str = "common") -> Any:
            if not -MAX_DIGITS <= precision <= MAX_DIGITS:
                raise BudgetExceeded(f"it rounds to {precision!r:.40} digits")
            return function(value, precision, method)

        return bounded

    def _sum(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Of numbers: adding lists one to the other takes the square of their length."""

        def bounded(context: Any, values: Any, attribute: Any = None, start: Any = 0) -> Any:
            if not isinstance(start, (int, float)):
                raise SecurityError("only numbers are summed here")
            return function(context, values, attribute, start)

        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return bounded

    def _list(self, value: Iterable[Any]) -> list[Any]:
        if isinstance(value, Iterator):
            return list(self.counted(value))
        small = isinstance(value, (list, tuple, dict))
        self.charge((REFERENCE if small else OBJECT) * _length(value))
        return list(value)

    def _trim(self, value: Any, chars: str | None = None) -> str:
        return self._strip(self.text_of(value), chars)

    def _strip(self, text: str, chars: str | None = None, /, way: str = "strip") -> str:
        if chars is not None:
            chars = "".join(dict.fromkeys(chars))  # a set to strip, and it is gone through
        self.charge(_width(text) * len(chars or " "))
        return str(getattr(text, way)(chars))

    def _lstrip(self, text: str, chars: str | None = None, /) -> str:
        return self._strip(text, chars, "lstrip")

    def _rstrip(self, text: str, chars: str | None = None, /) -> str:
        return self._strip(text, chars, "rstrip")

    def _split(self, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        """No more pieces are made than can be paid for."""
        most = self.steps_left + 1
        pieces = text.split(sep, most if maxsplit < 0 else min(most, maxsplit))
        self.charge(_width(text) + OBJECT * len(pieces))
        return pieces

    def _rsplit(self, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        if sep is not None:
            self._search_backwards(text, sep)
        most = self.steps_left + 1
        pieces = text.rsplit(sep, most if maxsplit < 0 else min(most, maxsplit))
        self.charge(_width(text) + OBJECT * len(pieces))
        return pieces

    def _search_backwards(self, text: str, part: str = "") -> None:
        """Python looks forwards in linear time, and backwards in the product of the lengths."""
        if len(part) > BYTES_A_STEP:
            self.charge(len(text) * len(part))

    def _comparing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test that pays for all that is in what it is given."""

        @functools.wraps(function)
        def comparing(*args: Any, **kwargs: Any) -> Any:
            for value in args:
                self.compared(value)
            return function(*args, **kwargs)

        return comparing

    def _replace(self, text: Any, old: Any, new: Any, count: int = -1) -> str:
        text, old, new = self.text_of(text), self.text_of(old), self.text_of(new)
        self.charge(_width(text) + text.count(old) * max(0, _width(new) - len(old)))
        return str(text.replace(old, new, -1 if count is None else count))

    def _join(self, glue: str, items: Iterable[Any]) -> str:
        texts = [self.text_of(item) for item in self.counted(items)]
        self.charge(sum(map(_width, texts)) + _width(glue) * len(texts))
        return glue.join(texts)

    def _join_filter(self, items: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in self.counted(items)]
        return self._join(self.text_of(d), items)

    def _indent(self, indent: Callable[..., Any]) -> Callable[..., str]:
        def bounded(text: str, width: int | str = 4, *args: Any, **kwargs: Any) -> str:
            if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
                raise BudgetExceeded(f"it indents by {width!r}, {MAX_INDENT} is the most")
            text = self.text_of(text)
            self.charge(_width(text) + text.count("\n") * (OBJECT + width))
            return str(indent(text, width, *args, **kwargs))

        return bounded

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= MAX_INDENT:
            raise BudgetExceeded(f"it indents JSON by {indent!r}, {MAX_INDENT} is the most")
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        pieces = []
        for piece in encoder.iterencode(value):
            self.charge(len(piece))
            pieces.append(piece)
        return "".join(pieces)


class _Metered(jinja2.visitor.NodeTransformer):
    """Puts the environment's meters into a parsed template: in loops, macros, comparisons, slices,
    the operator ~, and what it writes as lists, tuples and dicts."""

    def visit_List(self, node: jinja2.nodes.List) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _environment_call("made", node)

    def visit_Tuple(self, node: jinja2.nodes.Tuple) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return node if node.ctx == "store" else _environment_call("made", node)

    def visit_Dict(self, node: jinja2.nodes.Dict) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _environment_call("made", node)

    def visit_Pair(self, node: jinja2.nodes.Pair) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.key = _environment_call("compared", node.key)  # it is hashed
        return node

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Node:
        return self._working(node)

    def visit_CallBlock(self, node: jinja2.nodes.CallBlock) -> jinja2.nodes.Node:
        return self._working(node)

    def _working(self, node: Any) -> jinja2.nodes.Node:
        """A body that may be gone through many times pays for its length each time."""
        nodes = sum(1 for _ in node.find_all(jinja2.nodes.Node))
        self.generic_visit(node)
        paid = _environment_call("work", jinja2.nodes.Const(nodes, lineno=node.lineno))
        node.body.insert(0, jinja2.nodes.ExprStmt(paid, lineno=node.lineno))
        return node  # type: ignore[no-any-return]

    def visit_Compare(self, node: jinja2.nodes.Compare) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.expr = _environment_call("compared", node.expr)
        for operand in node.ops:
            meter = "searched" if operand.op in ("in", "notin") else "compared"
            operand.expr = _environment_call(meter, operand.expr)
        return node

    def visit_Getitem(self, node: jinja2.nodes.Getitem) -> jinja2.nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, jinja2.nodes.Slice):
            node.node = _environment_call("sliced", node.node)
        return node

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:
        self._working(node)
        node.iter = _environment_call("counted", node.iter)
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        self.generic_visit(node)
        parts = jinja2.nodes.List(node.nodes, lineno=node.lineno)
        return _environment_call("concatenated", parts)


def _environment_call(method: str, argument: jinja2.nodes.Node) -> jinja2.nodes.Call:
    line = argument.lineno
    function = jinja2.nodes.EnvironmentAttribute(method, lineno=line)
    return jinja2.nodes.Call(function, [argument], [], None, None, lineno=line)


class _PlainFormatter(Formatter):
    """str.format with fields by number or name, nothing inside them and no widths."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if "." in field_name or "[" in field_name:
            raise SecurityError(f"format field {field_name!r} looks inside a value")
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is not None:
            raise SecurityError(f"format field with !{conversion}")
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec:
            raise SecurityError(f"format field with {format_spec!r}")
        text = self._sandbox.text_of(value)
        self._sandbox.charge(_width(text))
        return text


# Whose attributes a template may ask for, besides those in METHODS, and what it may write.
REACHABLE = (
    jinja2.Undefined,
    jinja2.runtime.LoopContext,
    jinja2.runtime.Macro,
    jinja2.utils.Namespace,
)
WRITABLE = (str, int, float, type(None), list, tuple, dict, jinja2.Undefined)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _width(text: str) -> int:
    """Bytes that a string takes, at most."""
    return len(text) if text.isascii() else 4 * len(text)


def _size(value: Any) -> int:
    """Bytes that a copy of a string or a list takes, or of what else has a length."""
    return _width(value) if isinstance(value, str) else REFERENCE * _length(value)


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise BudgetExceeded(f"it computes a number of {bits} bits, {MAX_INT_BITS} is the most")


def _strftime_now(format: str) -> str:
    if len(format) > 64 or any(c.isdigit() for c in format):
        raise BudgetExceeded(f"it asks for the time as {format[:80]!r}")
    return time.strftime(format)
