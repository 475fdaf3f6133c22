"""Where a file's chat template runs: jinja2's sandbox, with less in it and a budget.

A template comes with the model and is as hostile as the rest of the file. jinja2's sandbox keeps it
from Python's internals; what is added here keeps it from taking the machine's time and memory:

  * a budget of steps for one rendering: a round of a loop and a call cost one, and whatever makes a
    string or a list costs one more for every 64 characters or elements of it
  * only filters, methods and globals that chat templates need, none that pads to a width
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

MAX_SOURCE = 1 << 18  # characters of a template; the longest known has 30,000
MAX_OUTPUT = 1 << 23  # characters of a rendering
MAX_STEPS = 250_000
ELEMENTS_A_STEP = 64
MAX_INDENT = 16
MAX_INT_BITS = 1 << 10

FILTERS = frozenset(
    "abs bool capitalize count d default dictsort e escape first float groupby indent int items"
    " join last length list lower map max min reject rejectattr replace reverse round safe select"
    " selectattr sort string sum title trim unique upper".split()
)
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

    intercepted_binops = frozenset(("+", "*", "**", "%"))

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
            dict=dict,
            range=self._range,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
        )

    def render(self, code: CodeType, variables: dict[str, Any]) -> str:
        template = jinja2.Template.from_code(self, code, self.globals)
        pieces = []
        size = 0
        for piece in template.generate(variables):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise BudgetExceeded(f"it writes more than {MAX_OUTPUT} characters")
            pieces.append(piece)
        return "".join(pieces)

    # ---- The budget ----

    def charge(self, elements: int = 0) -> None:
        """Takes a step, and more for making something of so many elements; before it is made."""
        self.steps_left -= 1 + elements // ELEMENTS_A_STEP
        if self.steps_left < 0:
            raise BudgetExceeded(f"it takes more than {MAX_STEPS} steps")

    def counted(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """What a loop goes over, a step a round."""
        for item in iterable:
            self.charge()
            yield item

    def text_of(self, value: Any) -> str:
        """str(value), at the price of what is in it: a small list can hold a large one often."""
        if not isinstance(value, str):
            self._weigh(value)
        return str(value)

    def _weigh(self, value: Any) -> None:
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                self._weigh(key)
                self._weigh(item)
        elif isinstance(value, (list, tuple)):
            self.charge()
            for item in value:
                self._weigh(item)
        else:
            self.charge()

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
        self.charge(len(value) if isinstance(value, (str, list, tuple)) else 0)
        return value

    def _finalize(self, value: Any) -> Any:
        """What a template writes: text goes through as it is."""
        if isinstance(value, (dict, list, tuple)):
            return self.text_of(value)
        return value

    def concatenated(self, parts: list[Any]) -> str:
        """The operator ~."""
        texts = [self.text_of(part) for part in parts]
        self.charge(sum(map(len, texts)))
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metered().visit(tree)
        return tree

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.charge()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            for name in ("_loop_vars", "_block_vars"):  # compiled templates pass them to context
                kwargs.pop(name, None)
            if function.__name__ == "replace":
                return self._replace(owner, *args, **kwargs)
            if function.__name__ == "join":
                return self._join(owner, *args, **kwargs)
            self.charge(len(owner))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            self.charge(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("strings are not formatted by % here")
        elif operator == "*":
            if isinstance(left, int) and isinstance(right, sized):
                left, right = right, left
            if isinstance(left, sized) and isinstance(right, int):
                self.charge(len(left) * max(0, right))
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
        return bool(super().is_safe_attribute(obj, attr, value))

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

    def _charging(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that pays for the size of what it is given."""
        at = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charging(*args: Any, **kwargs: Any) -> Any:
            self.charge(len(args[at]) if isinstance(args[at], (str, list, tuple, dict)) else 0)
            return function(*args, **kwargs)

        return charging

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
        self.charge(len(text) + text.count(old) * max(0, len(new) - len(old)))
        return str(text.replace(old, new, -1 if count is None else count))

    def _join(self, glue: str, items: Iterable[Any]) -> str:
        texts = [self.text_of(item) for item in self.counted(items)]
        self.charge(sum(map(len, texts)) + len(glue) * len(texts))
        return glue.join(texts)

    def _join_filter(self, items: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in self.counted(items)]
        return self._join(self.text_of(d), items)

    def _indent(self, indent: Callable[..., Any]) -> Callable[..., str]:
        def bounded(text: str, width: int | str = 4, *args: Any, **kwargs: Any) -> str:
            if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
                raise BudgetExceeded(f"it indents by {width!r}, {MAX_INDENT} is the most")
            self.charge(len(text) + text.count("\n") * width)
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
    """Puts the environment's meters into a parsed template: in loops, comparisons, slices and the
    operator ~."""

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
        self.generic_visit(node)
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

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec:
            raise SecurityError(f"format field with {format_spec!r}")
        text = self._sandbox.text_of(value)
        self._sandbox.charge(len(text))
        return text


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise BudgetExceeded(f"it computes a number of {bits} bits, {MAX_INT_BITS} is the most")


def _raise_exception(message: object = "") -> None:
    raise TemplateRaised(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 64 or any(c.isdigit() for c in format):
        raise BudgetExceeded(f"it asks for the time as {format[:80]!r}")
    return time.strftime(format)
