"""The command `diptych`: finds the command module, runs it, and turns errors into one sentence.

Nothing heavy is imported here, nor in a command module's top: `diptych --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from diptych.config import nearest
from diptych.text import one_line

COMMANDS: dict[str, str] = {
    "methods": "list the methods",
    "show": "tell all about one method: paper, idea, options, presets",
    "inspect": "look at a data set: what it has, what is broken, which methods can learn from it",
    "pack": "turn a folder, a table, COCO, Karpathy or Hugging Face data into shards",
    "curate": "make shards better: duplicates and leaks out, pairs scored, captions and pictures filtered",
    "annotate": "let an object detector say what is where in the pictures of shards",
    "plan": "say what a run will take, before it is made: memory, time, and which switch buys what",
    "train": "train a method on a data set",
    "adapt": "adapt a dual encoder to classes by a few pictures of each, and judge it as papers do",
    "evaluate": "measure a trained run on a data set",
    "compare": "train methods head to head and say which is better, and how sure that is",
    "scale": "fit how a method's figures grow with samples, compute or pictures",
    "claim": "measure what a method's card says that it does better than its baseline",
    "caption": "say what pictures show",
    "ask": "answer a question about a picture",
    "chat": "talk with a run about pictures",
    "report": "write one page about one or several runs",
    "export": "write a run as a transformers or open_clip model",
    "bench": "measure time and memory against a peer on this machine",
    "status": "which of the published systems has what, and what shows it",
    "demo": "train CLIP and FILIP on real pictures and show what they learned",
}
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_LONGEST = 2000  # characters of an error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 well, 1 an error said in one sentence, 2 a mistake in the command line, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if args[0] in ("-V", "--version", "version"):
        from diptych import __version__

        print(f"diptych {__version__}")
        return OK
    if args[0] not in COMMANDS:
        what = "option" if args[0].startswith("-") else "command"
        print(f"diptych: {nearest(args[0], COMMANDS, what)}", file=sys.stderr)
        return USAGE
    return _run(args[0], args[1:])


def _run(command: str, args: list[str]) -> int:
    # Threads that wait by spinning take the cores from loader workers and from other jobs: on a busy machine a training
    # step then takes several times as long. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = importlib.import_module(f"diptych.app.commands.{command}")
    try:
        return int(module.run(args) or OK)
    except SystemExit as stop:  # the option parser's way to say help (0) or usage (2)
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt as stop:
        print(f"\ndiptych: {stop}" if str(stop) else "\ndiptych: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `diptych methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if os.environ.get("DIPTYCH_DEBUG") == "1":
            raise
        print(f"diptych: {sentence(error)}", file=sys.stderr)
        return FAILED


def sentence(error: Exception) -> str:
    """What went wrong on one line; an error that nobody foresaw also names its type and how to see more."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory for this; make the input, the model or --batch smaller."
    text = one_line(str(said), _LONGEST)
    if isinstance(error, (ValueError, OSError, ImportError, LookupError, ArithmeticError, MemoryError)) and " " in text:
        return text
    return f"{type(error).__name__}: {text or 'no message'} (DIPTYCH_DEBUG=1 shows where)"


def _overview() -> str:
    lines = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diptych COMMAND [OPTIONS]",
            "",
            "Vision-language methods, trained and compared on your own data.",
            "",
            "commands:",
            *lines,
            "",
            "start with:  diptych demo          (minutes, no download)",
            "then:        diptych inspect MY_PICTURES",
            "             diptych pack MY_PICTURES my_shards",
            "             diptych train filip --data my_shards --out runs/mine",
            "",
            "`diptych COMMAND --help` tells the options; `diptych train ID --help` also those of a method.",
        ]
    )
