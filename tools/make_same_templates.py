"""Makes runtime/nybble/tokenizer/same_templates.py: the templates that minijinja renders as jinja2.

    python tools/make_same_templates.py FOLDER_OR_GGUF ...

Takes every .jinja of a folder and the template of every .gguf file, and renders it in both engines
with the conversations of tools/conversations.py and COUNT made by chance. A template is listed if
each of them came out equal, or was refused, by minijinja at least, which leaves it to jinja2.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nybble.formats.gguf import GgufFile
from nybble.tokenizer import quick
from tools.conversations import CHATS, VARIABLES, Messages, jinja2_environment, plain_chats

TABLE = Path(quick.__file__).parent / "same_templates.py"
COUNT = 3000
# These follow Unicode's tables, which grow with every version of Python and of minijinja.
BY_UNICODE = re.compile(r"[|.]\s*(upper|lower|title|capitalize|swapcase|casefold|is[a-z]+)\b")

HEAD = '''"""The templates that minijinja renders as jinja2 does: half of a SHA-256, and a name.

Made by tools/make_same_templates.py, with minijinja 3.1.
"""

SAME = {
'''


def sources(paths: list[str]) -> Iterator[tuple[str, str]]:
    """(name, template) of all there are."""
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(path.glob("*.jinja")):
                yield file.stem, file.read_text(encoding="utf-8")
        else:
            template = GgufFile(path).metadata.get("tokenizer.chat_template")
            if isinstance(template, str):
                yield path.stem, template


def conversations(count: int, seed: int) -> Iterator[tuple[Messages, dict[str, Any]]]:
    for messages in CHATS.values():
        for variables in VARIABLES:
            for prompt in (True, False):
                tokens = {"bos_token": "<s>", "eos_token": "</s>"}
                yield messages, {**tokens, **variables, "add_generation_prompt": prompt}
    yield from plain_chats(count, seed)


def difference(source: str, count: int = COUNT, seed: int = 1) -> str | None:
    """What tells the engines apart on a template; None if nothing does."""
    if found := BY_UNICODE.search(source):
        return f"it uses {found[0]}"
    template = jinja2_environment().from_string(source)
    try:
        environment = quick.compiled(source)
    except Exception as error:
        return f"minijinja does not compile it: {error}"
    rendered = 0
    for messages, variables in conversations(count, seed):
        text = quick.render(environment, {**variables, "messages": messages})
        if text is None:
            continue
        rendered += 1
        try:
            expected = template.render(messages=messages, **variables)
        except Exception as error:
            return f"jinja2 refuses {messages}: {error}"
        if text != expected:
            return f"{messages}: {text!r} is to be {expected!r}"
    return None if rendered else "minijinja renders nothing with it"


def main() -> None:
    same: dict[str, str] = {}
    for name, source in sources(sys.argv[1:]):
        found = difference(source)
        if found is None:
            same.setdefault(quick.digest(source), name)
        else:
            print(f"{name}: {found:.200}")
    rows = sorted(same.items(), key=lambda row: row[1].lower())
    table = "".join(f'    "{digest}": "{name}",\n' for digest, name in rows)
    TABLE.write_text(f"{HEAD}{table}}}\n", encoding="utf-8")
    print(f"{len(same)} templates: {TABLE}")


if __name__ == "__main__":
    main()
