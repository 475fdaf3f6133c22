"""nybble completion: what a shell needs to complete nybble's command lines.

The scripts hold verbs and flags, read from the parsers, and ask `nybble completion names` for the
names of models, which change.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.hub.known import KNOWN

if TYPE_CHECKING:
    from nybble.cli.parser import Parser

_EXAMPLES = """\
examples:
  nybble completion bash > ~/.local/share/bash-completion/completions/nybble
  nybble completion zsh > ~/.zfunc/_nybble         with ~/.zfunc in fpath
  nybble completion fish > ~/.config/fish/completions/nybble.fish
  source <(nybble completion bash)                 for this shell alone

Names are those of models here and, for pull, the known ones.
"""
# Which names a verb takes.
_KINDS = dict.fromkeys(("bench", "pack", "plan", "rm", "show"), "here")
_KINDS |= {"run": "all", "pull": "known"}
_SHELLS = ("bash", "zsh", "fish")
_SAFE = re.compile(r"[\w.:/@+~-]+", re.ASCII)


def add_parser(verbs: Any) -> None:
    """Describe `nybble completion` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="Print a script for a shell that completes verbs, flags and names of models.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("shell", choices=(*_SHELLS, "names"), metavar="SHELL",
                        help="bash, zsh or fish; names lists what the scripts ask for")  # fmt: skip
    parser.add_argument("kind", nargs="?", choices=("all", "here", "known"), default="all",
                        metavar="KIND", help="for names: all, here or known (all)")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble completion`."""
    if args.shell == "names":
        for name in names(args.kind):
            print(name)
        return 0
    from nybble.cli import parser, verbs_of

    print(_SCRIPTS[args.shell](verbs_of(parser())), end="")
    return 0


def names(kind: str) -> list[str]:
    """Names of models that a shell may complete: those here, the known ones, or all. Names with a
    character that means something to a shell are left out."""
    here = [name for name, _, _ in hub.installed() if _SAFE.fullmatch(name)]
    if kind == "here":
        return here
    known = [name for name in KNOWN if kind == "known" or name not in here]
    return [*(here if kind == "all" else []), *known]


def _flags(parser: Parser) -> dict[str, tuple[str, bool]]:
    """Each long flag of a verb: what it is for, and whether a value follows."""
    return {
        flag: ((action.help or "").split(" (")[0], action.nargs != 0)
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }


def _bash(verbs: dict[str, Parser]) -> str:
    cases = "".join(
        f"        {verb}) flags='{' '.join(_flags(parser))}' kind={_KINDS.get(verb, '')} ;;\n"
        for verb, parser in verbs.items()
    )
    # Words are matched one by one: compgen would expand what is in them. What bash replaces is
    # only what follows the last colon, which it takes for the end of a word.
    return rf"""# bash completion for nybble, printed by `nybble completion bash`
_nybble() {{
    local line=${{COMP_LINE:0:COMP_POINT}} flags='' kind='' word
    local current=${{line##*[[:space:]]}}
    local before=${{current%"${{current##*:}}"}} words=()
    case ${{COMP_WORDS[1]}} in
{cases}    esac
    if [[ $COMP_CWORD -eq 1 ]]; then
        words=({" ".join(verbs)} help --help --version)
    elif [[ ${{COMP_WORDS[1]}} == help ]]; then
        words=({" ".join(verbs)})
    elif [[ ${{COMP_WORDS[1]}} == completion ]]; then
        words=({" ".join(_SHELLS)})
    elif [[ $current == -* ]]; then
        words=($flags)
    elif [[ -n $kind ]]; then
        mapfile -t words < <(nybble completion names "$kind" 2>/dev/null)
    fi
    COMPREPLY=()
    for word in "${{words[@]}}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("${{word#"$before"}}")
    done
}}
complete -o bashdefault -o default -F _nybble nybble
"""


def _zsh(verbs: dict[str, Parser]) -> str:
    cases = "".join(
        f"        {verb}) flags=({' '.join(_flags(parser))}) kind={_KINDS.get(verb, '')} ;;\n"
        for verb, parser in verbs.items()
    )
    described = "\n".join(
        f"        {_quoted(f'{verb}:{_purpose(parser)}')}" for verb, parser in verbs.items()
    )
    return rf"""#compdef nybble
# zsh completion for nybble, printed by `nybble completion zsh`
_nybble() {{
    local -a verbs flags names
    local kind=''
    verbs=(
{described}
    )
    case $words[2] in
{cases}    esac
    if (( CURRENT == 2 )); then
        _describe verb verbs
    elif [[ $words[2] == help ]]; then
        _describe verb verbs
    elif [[ $words[2] == completion ]]; then
        compadd -- {" ".join(_SHELLS)}
    elif [[ $words[CURRENT] == -* ]]; then
        compadd -- $flags
    else
        [[ -n $kind ]] && names=(${{(f)"$(nybble completion names $kind 2>/dev/null)"}})
        compadd -- $names
        [[ $kind == (all|here) ]] && _files
    fi
}}
if [[ $funcstack[1] == _nybble ]]; then
    _nybble "$@"
else
    compdef _nybble nybble
fi
"""


def _fish(verbs: dict[str, Parser]) -> str:
    lines = [
        "# fish completion for nybble, printed by `nybble completion fish`",
        "complete -c nybble -f",
    ]
    for verb, parser in verbs.items():
        lines.append(
            f"complete -c nybble -n __fish_use_subcommand -a {verb} -d {_quoted(_purpose(parser))}"
        )
        of_verb = f"complete -c nybble -n '__fish_seen_subcommand_from {verb}'"
        for flag, (purpose, has_value) in _flags(parser).items():
            value = " -x" if has_value else ""
            lines.append(f"{of_verb} -l {flag[2:]}{value} -d {_quoted(purpose)}")
        if verb in _KINDS:
            files = "" if _KINDS[verb] == "known" else " -F"
            lines.append(f"{of_verb}{files} -a '(nybble completion names {_KINDS[verb]})'")
    for verb, words in (("completion", _SHELLS), ("help", verbs)):
        lines.append(
            f"complete -c nybble -n '__fish_seen_subcommand_from {verb}' -a '{' '.join(words)}'"
        )
    return "\n".join(lines) + "\n"


def _purpose(parser: Parser) -> str:
    """The first sentence of a verb's description."""
    return " ".join((parser.description or "").split()).partition(".")[0]


def _quoted(text: str) -> str:
    """A word in single quotes, as bash, zsh and fish all read it."""
    return "'" + text.replace("\\", "").replace("'", "") + "'"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
