"""What a template pays for: a budget of steps for one rendering, and the meters that are put into a
parsed template so that nothing is had for free (nybble.tokenizer.sandbox says what for).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.visitor
from jinja2.exceptions import SecurityError

MAX_STEPS = 250_000
BYTES_A_STEP = 64
NODES_A_STEP = 16
REFERENCE = 8  # bytes that a list takes for an element
OBJECT = 64  # bytes that a small object takes, about
MAX_NESTING = 100
MAX_INT_BITS = 1 << 10

# What a template may write.
WRITABLE = (str, int, float, type(None), list, tuple, dict, jinja2.Undefined)


class BudgetExceeded(Exception):
    """The template asks for more time or memory than it may have."""


class Meter:
    """The budget of one rendering, and what values cost."""

    steps_left = MAX_STEPS
    weighs_items = False  # whether what is looked up is paid for: a copy is made of it

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
        self.weigh(value, is_written=True)
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

    def weigh(
        self, value: Any, depth: int = 0, *, times: int = 1, is_written: bool = False
    ) -> None:
        """Pays for all that is in a value, for text so many `times`. is_written: what has no price
        is refused: a namespace or a view of a dict would be written with all that is in it."""
        if isinstance(value, str):
            self.charge(times * width_of(value))
            return
        if is_written and not isinstance(value, WRITABLE):
            raise SecurityError(f"a {type(value).__name__} is no text")
        self.charge()
        if isinstance(value, (list, tuple, dict)):
            self._check_nesting(depth)
            for item in (*value, *value.values()) if isinstance(value, dict) else value:
                self.weigh(item, depth + 1, times=times, is_written=is_written)

    def _check_nesting(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise BudgetExceeded(f"it nests values more than {MAX_NESTING} deep")

    def concat(self, pieces: Iterable[str]) -> str:
        """What a macro or a block writes."""
        texts = []
        for piece in pieces:
            self.charge(width_of(piece))
            texts.append(piece)
        return "".join(texts)

    def compared(self, value: Any) -> Any:
        """A side of a comparison, at the price of all that is in it: a list that holds a list
        twice, which holds a list twice, and so on, is compared for ever. What an iterator gives is
        paid for as it comes; and a range is gone through whenever anything but a number is looked
        for in it."""
        if isinstance(value, Iterator):
            return self._weighed(value)
        if isinstance(value, range):
            self.charge(BYTES_A_STEP * len(value))
        elif isinstance(value, (str, list, tuple, dict)):
            self.weigh(value)
        return value

    def _weighed(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.weigh(item)
            yield item

    def searched(self, value: Any) -> Any:
        """The right side of `in`; a dict is looked up, the others are gone through."""
        return value if isinstance(value, dict) else self.compared(value)

    def sliced(self, value: Any) -> Any:
        """What a slice is taken of."""
        self.charge(size_of(value))
        return value

    def concatenated(self, parts: list[Any]) -> str:
        """The operator ~."""
        texts = [self.text_of(part) for part in parts]
        self.charge(sum(map(width_of, texts)))
        return "".join(texts)


class Metered(jinja2.visitor.NodeTransformer):
    """Puts the environment's meters into a parsed template: in loops, macros, comparisons, slices,
    the operator ~, and what it writes as lists, tuples and dicts. Arguments after a star, which no
    known template has, are refused: Python unpacks them before anybody could be asked to pay."""

    def visit_Call(self, node: Any) -> jinja2.nodes.Node:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise jinja2.TemplateSyntaxError("arguments after * are refused", node.lineno)
        return self.generic_visit(node)

    visit_Filter = visit_Test = visit_Call

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
        paid = _work_of(node)
        self.generic_visit(node)
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

    def visit_ScopedEvalContextModifier(self, node: Any) -> jinja2.nodes.Node:
        """Where all is escaped that is written, it is so before anybody could be asked to pay."""
        raise jinja2.TemplateSyntaxError("autoescape is refused", node.lineno)

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:
        paid = None
        if node.test is not None:  # it is asked in every round, and the body may have none
            paid = jinja2.nodes.Not(_work_of(node.test), lineno=node.lineno)
        self._working(node)
        if paid is not None and node.test is not None:
            node.test = jinja2.nodes.And(paid, node.test, lineno=node.lineno)
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


def _work_of(node: jinja2.nodes.Node) -> jinja2.nodes.Call:
    nodes = sum(1 for _ in node.find_all(jinja2.nodes.Node))
    return _environment_call("work", jinja2.nodes.Const(nodes, lineno=node.lineno))


def length_of(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def width_of(text: str) -> int:
    """Bytes that a string takes, at most."""
    return len(text) if text.isascii() else 4 * len(text)


def size_of(value: Any) -> int:
    """Bytes that a copy of a string or a list takes, or of what else has a length."""
    return width_of(value) if isinstance(value, str) else REFERENCE * length_of(value)


def escaped_width(text: str) -> int:
    """Bytes that a string takes with its characters of HTML escaped, at most."""
    longer = 4 * sum(map(text.count, "&<>\"'"))
    return width_of(text) + (longer if text.isascii() else 4 * longer)


def check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise BudgetExceeded(f"it computes a number of {bits} bits, {MAX_INT_BITS} is the most")
