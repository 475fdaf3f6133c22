"""Chat templates that ask for too much time, memory or output, or reach for Python."""

from __future__ import annotations

# Two lists that hold a list twice, which holds a list twice, and so on: small, and endless. Made
# by what is not a list in the template's text, so that making them costs nothing by itself.
TWICE = (
    "{% macro twice(x, y) %}{% endmacro %}"
    "{% set n = namespace(a=[1], b=[1], t=(1,)) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)
# The same as far as it can be had: seven levels, a thousand times in a list.
WIDE = (
    "{% set n = namespace(a=1, t=1) %}{% for i in range(7) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)
MANY = "{% for i in range(200000) %}"
TEXT = "{% set s = 'a' * 4000000 %}"
RANGE = "{% set r = range(9000000) %}"
# Tuples that take 2^12 steps to hash or compare, in a list.
TUPLES = (
    "{% set n = namespace(t=(1,), u=(2,)) %}{% for i in range(12) %}"
    "{% set n.t = (n.t, n.t) %}{% set n.u = (n.t, n.u) %}{% endfor %}{% set s = [n.t] * 60000 %}"
)
# Namespaces that hold one twice, and so on: what is written of them has no end.
SPACES = (
    "{% set n = namespace(a=1) %}{% for i in range(60) %}"
    "{% set n.a = namespace(a=n.a, b=n.a) %}{% endfor %}"
)
# A long text that is found often, and seen nowhere.
LETTERS = "{% set n = namespace(a='A' * 900000) %}{% set s = [n] * 9999 %}"
# A condition of a thousand words, none of which holds.
CONDITION = "i.a"
for _ in range(10):
    CONDITION = f"({CONDITION} or {CONDITION})"

# name -> (source, words of the refusal)
BOMBS = {
    "a capture, doubled": (
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}"
        "{% set x %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = x %}{% endfor %}",
        "takes more than 250000 steps",
    ),
    "a macro, doubled": (
        "{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(s='ab') %}"
        "{% for i in range(99) %}{% set n.s = f(n.s) %}{% endfor %}",
        "takes more than 250000 steps",
    ),
    "a called block, doubled": (
        "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call f() %}" * 22 + "x" * 999 + "{% endcall %}" * 22,
        "takes more than 250000 steps",
    ),
    "a list in letters": ("{{ ('漢' * 4000000) | list | length }}", "takes more than"),
    "a list of numbers": ("{{ range(7000000) | list | length }}", "takes more than"),
    "a dict of numbers": ("{{ dict.fromkeys(range(9000)) | length }}", "fromkeys"),
    "a dict changed": ("{{ dict.update(messages[0], {'role': 'x'}) }}", "update"),
    "lists kept": (
        MANY + "{% set n = namespace(a=[]) %}{% for j in range(9999) %}"
        "{% set n.a = [n.a] + [" + "{}, " * 900 + "] %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "lists that hold lists twice": (TWICE, "takes more than 250000 steps"),
    "deep tuples": (
        "{% set n = namespace(t=(1,)) %}{% for i in range(99999) %}{% set n.t = (n.t,) %}"
        "{% endfor %}{{ {n.t: 1}[n.t] }}",
        "nests values more than 100 deep",
    ),
    "deep dicts": (
        "{% set n = namespace(d={}) %}{% for i in range(99999) %}{% set n.d = dict(a=n.d) %}"
        "{% endfor %}{{ n.d | tojson }}",
        "nests values more than 100 deep",
    ),
    "namespaces that hold one twice, written": (
        "{% set n = namespace(a=1) %}{% for i in range(60) %}"
        "{% set n.a = namespace(a=n.a, b=n.a) %}{% endfor %}{{ n }}",
        "a Namespace is no text",
    ),
    "such namespaces in capitals": (
        "{% set n = namespace(a=1) %}{% for i in range(60) %}"
        "{% set n.a = namespace(a=n.a, b=n.a) %}{% endfor %}{{ n | upper }}",
        "a Namespace is no text",
    ),
    "lists written in capitals": (
        WIDE + MANY + "{% if n.a | upper %}{% endif %}{% endfor %}", "takes more than"),
    "lists counted": (WIDE + MANY + "{% if [n.a].count(n.a) %}{% endif %}{% endfor %}",
                      "takes more than"),
    "lists looked for": (WIDE + MANY + "{% if [n.a].index(n.a) %}{% endif %}{% endfor %}",
                         "takes more than"),
    "lists that change in a loop": (
        WIDE + MANY + "{% if loop.changed(n.a) %}{% endif %}{% endfor %}", "takes more than"),
    "tuples as keys": (WIDE + MANY + "{% if {n.t: 1} %}{% endif %}{% endfor %}",
                       "takes more than"),
    "tuples looked up": (
        WIDE + "{% set d = {1: 2} %}" + MANY + "{% if d[n.t] %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "tuples got": (
        WIDE + "{% set d = {1: 2} %}" + MANY + "{% if d.get(n.t) %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "lists raised": (WIDE + "{% set x = [n.a] * 99999 %}{{ raise_exception(x) }}",
                     "takes more than"),
    "lists formatted": (
        WIDE + MANY + "{% if '{0!r}'.format(n.a) %}{% endif %}{% endfor %}", "format field with"),
    "stripping by many letters": (
        TEXT + "{{ s.strip('b' * 999 ~ s) | length }}{{ s.strip(range(30000) | join) }}",
        "takes more than",
    ),
    "trimming by many letters": (
        "{% set n = namespace(c='') %}{% set t = '" + "".join(map(chr, range(0x4E00, 0x5E00)))
        + "' %}{% for i in range(99) %}{% if (t[0] * 99999) | trim(t[1:]) %}{% endif %}"
        "{% if ('a' * 999999).strip(t ~ 'a') %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "searching backwards": (
        TEXT + "{{ s.rfind('ab' ~ s[:2000000]) }}", "takes more than"),
    "splitting backwards": (
        TEXT + "{{ s.rsplit('ab' ~ s[:2000000]) | length }}", "takes more than"),
    "splitting into letters": (
        "{{ ('漢 ' * 1500000).split() | length }}", "takes more than"),
    "splitting into lines": (
        "{{ ('漢\\n' * 1500000).splitlines() | length }}", "takes more than"),
    "splitting by a letter": (TEXT + "{{ s.split('a') | length }}", "takes more than"),
    "a start with one of many": (
        "{% set t = range(60000) | map('string') | list %}" + MANY
        + "{% if 'x'.startswith(dict(a=t).a) %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "escapes": ("{% set s = '&' * 3000000 %}{{ s | e | string | e | string | e | length }}",
                "takes more than"),
    "a generator gone through often": (
        "{% set s = [1] * 60000 %}" + MANY + "{% if s | select | list %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "a generator reversed": (
        "{% set s = [1] * 60000 %}" + MANY
        + "{% if s | select | reverse %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "a sum of lists": ("{{ ([[1] * 6000] * 900) | sum(start=[]) | length }}", "only numbers"),
    "a number of many digits": ("{{ ('f' * 4000000) | int(0, 16) }}", "a number of 4000000 digits"),
    "digits in the source": (
        "{% set a = 0x" + "f" * 3000 + " %}" + MANY + "{% if a // 7 %}{% endif %}{% endfor %}",
        "a number of 12000 bits",
    ),
    "more digits in the source": ("{% set a = 0x" + "f" * 9999 + " %}", "limit .4300 digits"),
    "digits squared": ("{{ (10 ** 300) * (10 ** 300) }}", "a number of 1200 bits"),
    "rounding far": ("{{ 1.5 | round(1000000000, 'ceil') }}", "rounds to 1000000000"),
    "bytes of a number": ("{{ (1).to_bytes(1000000000, 'big') }}", "to_bytes"),
    "a word in a range": (
        RANGE + MANY + "{% if 'a' in r %}{% endif %}{% endfor %}", "takes more than"),
    "a word in a range, as a test": (
        RANGE + MANY + "{% if 'a' is in r %}{% endif %}{% endfor %}", "takes more than"),
    "a loop that goes on in a range": (
        RANGE + "{% for i in ['a'] if (i is string) recursive %}{% set again = loop %}" + MANY
        + "{% set x = again(r) %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "arguments of a star": ("{{ range(*range(15000000)) }}", "line 1: arguments after [*]"),
    "arguments of a star, written": ("{{ ''.format(*range(14000000)) }}", "arguments after [*]"),
    "letters of a star": ("{{ ''.format(*('漢' * 3000000)) }}", "arguments after [*]"),
    "a star in a filter": ("{{ [1] | join(*range(15000000)) }}", "arguments after [*]"),
    "a star in a test": ("{{ 1 is eq(*range(15000000)) }}", "arguments after [*]"),
    "stars of names": ("{{ dict(**messages[0]) }}", "arguments after [*]"),
    "many words in a title": ("{{ ('--aa' * 1000000) | title | length }}", "takes more than"),
    "letters sorted": ("{{ ('漢' * 900000) | sort | length }}", "takes more than"),
    "some letters sorted": ("{{ ('漢' * 240000) | sort | length }}", "takes more than"),
    "letters in groups": ("{{ ('漢' * 900000) | groupby('a') | length }}", "takes more than"),
    "line ends indented": ("{{ ('aaaa\\r' * 900000) | indent | length }}", "takes more than"),
    "escapes by +": ("{{ (('' | safe) + ('&' * 7000000)) | length }}", "takes more than"),
    "letters gone through for nothing": (
        "{% set s = 'a' * 5000000 %}" + "{% for c in s | select('none') %}{% endfor %}" * 9,
        "takes more than",
    ),
    "letters rejected": (
        "{% set s = 'a' * 5000000 %}" + "{% for c in s | reject('string') %}{% endfor %}" * 9,
        "takes more than",
    ),
    "tuples of a generator, hashed": (
        TUPLES + "{{ s | select('iterable') | unique | list | length }}", "takes more than"),
    "tuples of a generator, compared": (
        TUPLES + "{{ s | select('iterable') | max | length }}", "takes more than"),
    "tuples of a generator, searched": (
        TUPLES + "{{ n.u in (s | select('iterable')) }}", "takes more than"),
    "tuples of a generator as keys": (
        TUPLES + "{% set p = [(n.t, 1)] * 60000 %}{{ dict(p | select) | length }}",
        "takes more than",
    ),
    "namespaces that hold one twice, in a list": (SPACES + "{{ [n] }}", "a Namespace is no text"),
    "such namespaces in a dict": (SPACES + "{{ {'a': n} | upper }}", "a Namespace is no text"),
    "such namespaces in a test": (SPACES + "{{ n is lower }}", "a Namespace is no text"),
    "such namespaces looked up": (SPACES + "{{ {}[n].b }}", "a Namespace is no text"),
    "such namespaces called": (
        SPACES + "{% set n.unsafe_callable = true %}{{ n() }}", "<namespace> is not safely"),
    "views of a dict": (
        "{% set d = {'a': 'x' * 1000000} %}{{ [d.items()] * 9999 }}", "a dict_items is no text"),
    "views of a dict, looked up": (
        "{% set d = {'a': 'x' * 1000000} %}{{ {}[[d.values()] * 9999].b }}",
        "a dict_values is no text",
    ),
    "lists looked up": (
        "{% set s = ['x' * 1000000] * 9999 %}{{ {}[s].b }}", "takes more than"),
    "a name of many letters": (
        "{{ {}['\\x00' * 15000000].b }}", "'dict object' has no attribute 'str'"),
    "braces": ("{{ ('{{' * 5000000).format() | length }}", "takes more than"),
    "a field of many letters": (
        "{{ ('{' ~ '\\x00' * 4000000 ~ '}').format() }}", "a format field of 4000000 characters"),
    "a long way through namespaces": (
        "{% set n = namespace() %}{% set n.a = n %}"
        "{{ ([n] * 60000) | map(attribute='a.' * 100000 ~ 'a') | list | length }}",
        "takes more than",
    ),
    "a way of many names": (
        "{{ [1] | map(attribute='ab.' * 4000000, default=[]) | list | length }}",
        "takes more than",
    ),
    "many attributes": ("{{ [1, 2] | sort(attribute='a,' * 4000000) }}", "takes more than"),
    "letters sorted by an attribute": (
        LETTERS + "{{ s | sort(attribute='a') | length }}", "takes more than"),
    "letters in groups by an attribute": (
        LETTERS + "{{ s | groupby('a') | length }}", "takes more than"),
    "letters unique by an attribute": (
        LETTERS + "{{ s | unique(attribute='a') | list | length }}", "takes more than"),
    "the largest by an attribute": (
        LETTERS + "{{ (s | max(attribute='a')).b }}", "takes more than"),
    "letters sorted by a loop's attribute": (
        "{% set s = 'A' * 900000 %}{% for x in [s, s] %}"
        "{{ ([loop] * 9999) | sort(attribute='previtem') | length }}{% endfor %}",
        "takes more than",
    ),
    "letters tested for their case": (
        TEXT + MANY + "{% if s is upper %}{% endif %}{% endfor %}", "takes more than"),
    "letters selected by their case": (
        TEXT + "{{ ([s] * 60000) | select('upper') | list | length }}", "takes more than"),
    "tuples among the filters": (
        TUPLES + "{% for t in s %}{% if t is filter %}{% endif %}{% endfor %}", "takes more than"),
    "a format divided": ("{{ '%900000000d' is odd }}", "a str is not divided here"),
    "a format divided by a number": (
        "{{ '%900000000d' is divisibleby(3) }}", "a str is not divided here"),
    "a long condition of a loop": (
        MANY.replace(" %}", f" if {CONDITION} %}}") + "{% endfor %}",
        "takes more than",
    ),
    "escapes of most": ("{{ ('&' * 12000000) | e | length }}", "takes more than"),
    "escapes by a block": (
        "{% autoescape true %}{{ '&' * 12000000 }}{% endautoescape %}", "autoescape is refused"),
    "escapes by a join": (
        "{% set s = '&' * 7000000 %}{{ ('' | safe).join([s]) | length }}", "takes more than"),
    "JSON of control characters": (
        "{{ ('\\x01' * 14000000) | tojson | length }}", "takes more than"),
    "a search in a range": (
        "{% set r = range(9999999) %}" + MANY + "{% if r.count('a') %}{% endif %}{% endfor %}",
        "'range' object|unsafe|takes more",
    ),
    "a long body, often": (
        MANY + "{% if x %}a{% endif %}" * 900 + "{% endfor %}", "takes more than"),
    "a long macro, often": (
        "{% macro f() %}" + "{% if x %}a{% endif %}" * 900 + "{% endmacro %}"
        + MANY + "{% if f() %}{% endif %}{% endfor %}",
        "takes more than",
    ),
    "a long body, often, silently": (
        "{% macro f() %}" + MANY + "{{ y }}" * 3000 + "{% endfor %}{% endmacro %}{{ f() }}",
        "takes more than",
    ),
    "a loop that calls itself": (
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "deeply|takes more"),
    "much output of little": (
        "{% set s = '漢' * 9999 %}{% for i in range(9999) %}{{ s }}{% endfor %}",
        "writes more than 262\\d\\d\\d characters",
    ),
    "a source too long": ("x" * 65_537, "has 65537 characters, 65536 are the most"),
    "expressions": ("{{a}}" * 13_000, "has more than 4000 expressions and statements"),
    "as many expressions as there may be": ("{{a}}" * 3_990 + "{{ 1 // 0 }}", "ZeroDivisionError"),
    "an endless expression": ("{{ " + "a + " * 16_000 + "a }}", "nested too deeply"),
    "attributes": ("{{ a" + ".b" * 32_000 + " }}", "nested too deeply"),
    "filters": ("{{ a" + "|e" * 32_000 + " }}", "nested too deeply"),
    "conditions": ("{% if a %}" + "{% elif a %}b" * 900 + "{% endif %}" + "{{ 1 // 0 }}",
                   "deeply|ZeroDivisionError"),
    "nested loops": ("{% for a in [1] %}" * 90 + "{% endfor %}" * 90, "nested|SyntaxError"),
    "nested lists": ("{{ " + "[" * 9_000 + "]" * 9_000 + " }}", "nested too deeply"),
    "nested conditions": ("{% if a %}" * 3_000 + "{% endif %}" * 3_000, "nested too deeply"),
    "negations": ("{{ " + "not " * 16_000 + "a }}", "nested too deeply"),
    "Python by a class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__class__"),
    "Python by a global": ("{{ raise_exception.__globals__['sys'] }}", "__globals__"),
    "Python by a method": ("{{ raise_exception.__func__.__globals__ }}", "__func__|unsafe"),
    "Python by the environment": ("{{ range.__self__.globals }}", "__self__|unsafe"),
    "Python by a filter": ("{{ '' | attr('__class__') }}", "No filter named 'attr'"),
    "Python by a format": ("{{ '{0.__class__}'.format('') }}", "looks inside a value"),
    "Python by a macro": ("{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}", "_func|unsafe"),
    "Python by a generator": ("{{ (x for x in y) }}", "does not compile"),
    "Python by a loop": ("{% for i in [1] %}{{ loop._iterator.gi }}{% endfor %}", "_iterator"),
    "another template": ("{% import 'x' as y %}", "no loader|line 1"),
    "itself": ("{% extends 'chat template' %}", "no loader|line 1"),
}  # fmt: skip
