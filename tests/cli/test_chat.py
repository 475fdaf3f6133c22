"""The chat of nybble run on a real terminal, with a fake model."""

import json
import os
import stat
import sys

import pytest

from nybble.cli import chat
from tests.model.models import speaking

HOME = "chat_history"
# readline as people have it: it edits lines, and draws them itself
EDITING = """import os
os.environ['TERM'] = 'xterm'
fake_model.install()"""


def test_chat_answers_until_exit(calls, open_terminal):
    terminal = open_terminal("run", "--system", "Be brief.", columns=200)
    terminal.say("/stats", "no reply yet")
    terminal.say("hello there", "You said <hello there> in message 2")
    terminal.say("/stats", "reply 3 tokens at 25.0 tokens/s")
    terminal.say("/help", "/exit         leave")
    terminal.say("/new")
    terminal.say("who are you", "You said <who are you> in message 2")
    terminal.say("/what", "there is no command /what")
    assert terminal.leave("/exit\n") == 0


def test_what_a_chat_says_fits_a_narrow_terminal(calls, open_terminal):
    terminal = open_terminal("run", "--verbose", columns=40)
    seen = ""
    for command, answer in (("/help", "and ends it"), ("hi", "ended by end"), ("/stats", "by end")):
        seen += terminal.say(command, answer) + answer + "\n"
    assert terminal.leave() == 0
    assert "/think on     let a model that can think\r\n              do so first" in seen
    assert "seed 0," in seen
    assert max(map(len, seen.splitlines())) <= 40


def test_a_reply_that_the_context_cut_is_told(calls, open_terminal):
    cut = "fake_model.Stats.stop_reason = 'context'"
    terminal = open_terminal("run", setup=f"fake_model.install()\n{cut}")
    terminal.say("hello", "the context is full with 8 tokens")
    assert terminal.leave("/exit\n") == 0


def test_chat_escapes_what_could_drive_the_terminal(calls, open_terminal):
    setup = (
        r"fake_model.speak = lambda text: ['\x1b]0;title\x07', '\U0001f469\u200d\U0001f680 end']"
    )
    terminal = open_terminal("run", setup=f"fake_model.install()\n{setup}")
    shown = terminal.say("hello", "\U0001f469\u200d\U0001f680 end")
    assert r"\x1b]0;title\x07" in shown
    assert terminal.leave() == 0


def test_chat_goes_on_after_an_interrupt_and_an_error(calls, open_terminal):
    setup = (
        "from nybble.errors import ContextError\n"
        "errors = [KeyboardInterrupt(), ContextError('too long')]\n"
        "def speak(text):\n"
        "    return ['word', errors.pop(0)] if errors and text == 'hello' else ['fine']\n"
        "fake_model.speak = speak"
    )
    terminal = open_terminal("run", setup=f"fake_model.install()\n{setup}")
    for answer in ("(stopped)", "nybble: too long", "fine"):
        terminal.say("hello", answer)
    terminal.until_prompt()
    terminal.interrupt_until("/exit or Ctrl-D leaves")
    assert terminal.leave() == 0


def test_an_interrupt_stops_a_reply_of_a_real_model(open_terminal, tmp_path):
    """As Ctrl-C comes from a terminal, through the handler of the command."""
    path = speaking(tmp_path, "abc", loops=True, context=60_000)
    script = (
        "import fcntl, sys, termios\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from nybble.__main__ import main\n"
        f"sys.argv = ['nybble', 'run', {os.fspath(path)!r}, '--context', '60000']\n"
        "sys.exit(main())\n"
    )
    terminal = open_terminal(command=[sys.executable, "-c", script])
    for _ in range(3):
        terminal.say("hello", "abcabc")
        terminal.interrupt_until("(stopped)")
    assert terminal.leave() == 0


def test_a_message_of_several_lines(calls, open_terminal):
    terminal = open_terminal("run")
    terminal.until_prompt()
    terminal.type('"""first\n')
    terminal.until(". ")
    terminal.type("  second\n")
    terminal.until(". ")
    terminal.type('third"""\n')
    assert terminal.until("in message").splitlines()[-3:] == [
        "You said <first",
        "  second",
        "third> ",
    ]
    terminal.until_prompt()
    terminal.type('"""on one line"""\n')
    terminal.until("<on one line> in message 2")
    assert terminal.leave() == 0


def test_what_was_said_can_be_saved(calls, open_terminal, tmp_path):
    terminal = open_terminal("run", "--system", "Be brief.")
    for command, answer in (
        ("hello", "You said"),
        (f"/save {tmp_path}/talk.json", "saved 2 messages: "),
        (f"/save {tmp_path}/talk.txt", "saved 2 messages: "),
        (f"/save {tmp_path}/talk.json", "saved 2 messages: "),  # its own file again
        ("/save", "which file?"),
        (f"/save {tmp_path}/other.txt", "is there already; save under another name"),
        (f"/save {tmp_path}/none/talk.txt", "No such file or directory"),
    ):
        if "other" in command:
            (tmp_path / "other.txt").write_text("mine")
        terminal.say(command, answer)
    assert terminal.leave() == 0
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert json.loads((tmp_path / "talk.json").read_text()) == said
    assert (tmp_path / "talk.txt").read_text() == "system: Be brief.\n\nuser: hello\n"
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_what_was_saved_stays_if_saving_again_fails(tmp_path):
    path = tmp_path / "talk.txt"
    path.write_text("what was said before")
    with pytest.raises(UnicodeEncodeError):
        chat._write_down([{"role": "user", "content": "no text: \ud800"}], str(path))
    assert path.read_text() == "what was said before"
    assert os.listdir(tmp_path) == [path.name]
    chat._write_down([{"role": "user", "content": "hello"}], str(path))
    assert path.read_text() == "user: hello\n"
    assert os.listdir(tmp_path) == [path.name]


def test_a_system_message_begins_anew(calls, open_terminal):
    terminal = open_terminal("run")
    for command, answer in (
        ("/system", "no system message; /system TEXT sets one"),
        ("hello", "in message 1"),
        ("/system Be brief.", ""),
        ("hello", "in message 2"),
        ("/system", "Be brief."),
        ("/new", ""),
        ("hello", "in message 2"),  # the system message stays
    ):
        terminal.say(command, answer)
    assert terminal.leave("/exit\n") == 0


def test_thinking_is_turned_on_and_off(calls, open_terminal):
    setup = """fake_model.install()
real = fake_model.Chat.ask
def ask(self, text, **options):
    print('options', options)
    return real(self, text, **options)
fake_model.Chat.ask = ask"""
    terminal = open_terminal("run", "--no-think", setup=setup)
    for command, answer in (
        ("/think", "/think is off; on, off and auto change it"),
        ("hello", "options {'think': False}"),
        ("/think on", ""),
        ("hello", "options {'think': True}"),
        ("/think auto", ""),
        ("hello", "options {}"),
        ("/think maybe", "/think is auto"),
    ):
        terminal.say(command, answer)
    assert terminal.leave() == 0


UNTHINKING = """fake_model.install()
from nybble.errors import UsageError
real = fake_model.Model.ask
def ask(self, messages, **options):
    if options.get('think'):
        raise UsageError('think=True: this model does not think')
    return real(self, messages, **options)
fake_model.Model.ask = ask"""


def test_thinking_that_cannot_be_had_is_told_at_once(calls, open_terminal):
    terminal = open_terminal("run", setup=UNTHINKING)
    told = "nybble: /think on: this model does not think; /think auto leaves that to the model"
    for command, answer in (("/think on", told), ("/think", "/think is auto"), ("hi", "<hi>")):
        terminal.say(command, answer)
    assert terminal.leave() == 0
    terminal = open_terminal("run", "--think", setup=UNTHINKING)
    assert terminal.end() == 2
    assert terminal.seen == "nybble: --think: this model does not think\r\n"


def test_a_path_is_a_message_and_a_mistyped_command_is_not(calls, open_terminal):
    terminal = open_terminal("run")
    for command, answer in (
        ("/etc/hosts is what?", "You said </etc/hosts is what?>"),
        ("/stat please", "there is no command /stat; /help lists them"),
        ("/", "there is no command /"),
        ("   ", ""),
    ):
        terminal.say(command, answer)
    assert terminal.leave() == 0


def test_what_was_typed_comes_back(calls, home, open_terminal):
    pytest.importorskip("readline")
    first = open_terminal("run", setup=EDITING)
    first.say("a long question", "<a long question>", enter="\r")
    first.until_prompt()
    first.process.kill()  # nothing is lost by that
    first.process.wait()
    path = home / HOME
    assert path.read_text().splitlines()[-1] == "a long question"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    second = open_terminal("run", setup=EDITING)
    second.until_prompt()
    second.type("\x1b[A\x01very \r")  # up; to the line's begin, and there another word
    second.until("<very a long question>")
    assert second.leave() == 0


def test_a_history_of_others_is_made_private(calls, home, open_terminal):
    pytest.importorskip("readline")
    path = home / HOME
    path.write_text("before\n")
    path.chmod(0o644)
    terminal = open_terminal("run", setup=EDITING)
    terminal.until_prompt()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_chat_works_without_a_history(calls, home, open_terminal):
    (home / HOME).mkdir()  # a file of that name cannot be had
    terminal = open_terminal("run", setup=EDITING)
    terminal.say("hello", "You said <hello>", enter="\r")
    assert terminal.leave() == 0


def test_ctrl_c_stops_a_reply_that_is_being_made(calls, open_terminal):
    setup = """import time
fake_model.install()
def speak(text):
    yield 'begun'
    time.sleep(0.2 if text == 'short' else 60)
    yield ' done'
fake_model.speak = speak
fake_model.Chat.ask = lambda self, text, **options: fake_model.Reply(speak(text))"""
    terminal = open_terminal("run", setup=setup)
    terminal.say("long", "begun")
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.say("short", "begun done")
    assert terminal.leave() == 0
