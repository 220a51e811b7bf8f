"""`diptych chat RUN`: a conversation with a trained run about pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.app import options

if TYPE_CHECKING:
    from diptych.app.talking import Chat

HELP = "/look PATH shows a picture, /new begins a new conversation, /quit ends (so does Ctrl-D)."


@dataclass(frozen=True)
class Options:
    """Talk with a run about pictures; answers appear while they are written. /look PATH shows a picture."""

    run: options.RunOrModel
    """folder of a run, or a model on the hub (OWNER/NAME)"""
    look: options.Several = ()
    """path of a picture to begin with, may be given several times"""
    longest: int = 128
    """tokens of an answer at most"""
    checkpoint: str = "last"
    """which weights: last, or best (by the evaluations during training)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


def run(args: Sequence[str]) -> int:
    """Reads lines until the end of the input; a line that cannot be answered is told, and the conversation goes on."""
    chosen = options.parse(Options, args, "chat")
    from diptych.app import talking
    from diptych.text import visible

    chat = talking.Chat(chosen.run, checkpoint=chosen.checkpoint, device=chosen.device)
    for path in chosen.look:
        chat.look(path)
    print(HELP, file=sys.stderr)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
            if line == "/quit":
                return 0
            _obey(chat, line, lambda piece: print(visible(piece), end="", flush=True), chosen.longest)
        except EOFError:
            return 0
        except (ValueError, OSError) as error:
            print(f"diptych: {visible(str(error))}", file=sys.stderr)


def _obey(chat: Chat, line: str, tell: Callable[[str], None], longest: int) -> None:
    if line == "/new":
        chat.forget()
    elif line == "/look" or line.startswith("/look "):
        chat.look(line.removeprefix("/look").strip())
    elif line.startswith("/"):
        print(HELP, file=sys.stderr)
    elif line:
        chat.say(line, tell, longest)
        print()
