"""Prepares `.venv` next to this checkout and runs a command in it. Needs nothing but Python 3.11 to 3.13.

    python tools/bootstrap.py                 only prepares the environment
    python tools/bootstrap.py diptych demo    prepares it, then runs the command inside it

The environment is made again only when pyproject.toml or constraints.txt has changed. Installing goes through uv
where it can be had, and through pip otherwise; both keep to constraints.txt, so that no dependency swaps torch for
another build.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "diptych.stamp"
TARGET = ".[dev]"


def main(command: list[str]) -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"diptych needs Python 3.11 to 3.13; this is {sys.version.split()[0]}. Set PYTHON=python3.12 for make.")
        return 1
    stamp = fingerprint()
    if not (STAMP.exists() and STAMP.read_text() == stamp and PYTHON.exists()):
        prepare()
        STAMP.write_text(stamp)
    if not command:
        print(f"ready: {BIN / 'diptych'} --help")
        return 0
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "VIRTUAL_ENV": str(VENV)}
    environment.pop("PYTHONHOME", None)
    environment.pop("PYTHONPATH", None)
    return subprocess.call(command, cwd=ROOT, env=environment)


def fingerprint() -> str:
    """A hash of what decides the environment's contents."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("pyproject.toml", "constraints.txt", "tools/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def prepare() -> None:
    """Makes `.venv` and installs the project with all its extras into it."""
    print("setting up .venv (once; about a minute, 1.1 GB)", flush=True)
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    arguments = ["-c", "constraints.txt", "-e", TARGET]
    if subprocess.call([*pip, "uv"], cwd=ROOT, stderr=subprocess.DEVNULL) == 0:
        uv = [str(PYTHON), "-m", "uv", "pip", "install", "--quiet", "--python", str(PYTHON), "--compile-bytecode"]
        if subprocess.call([*uv, *arguments], cwd=ROOT, env=uv_environment()) == 0:
            return
        print("uv could not install everything; trying pip (two to three minutes)", flush=True)
    subprocess.check_call([*pip, *arguments], cwd=ROOT)


def uv_environment() -> dict[str, str]:
    """This environment with pip's own settings in uv's names: uv does not read pip's configuration."""
    environment = dict(os.environ)
    for option, variable in (
        ("find-links", "UV_FIND_LINKS"),
        ("extra-index-url", "UV_INDEX"),
        ("cert", "SSL_CERT_FILE"),
    ):
        value = pip_setting(option)
        if option == "extra-index-url":  # an index that is a missing local folder only makes uv fail
            value = " ".join(url for url in value.split() if not url.startswith("file:"))
        if value and variable not in environment:
            environment[variable] = value
    return environment


def pip_setting(option: str) -> str:
    """The value of a pip option from the environment or pip's configuration, or the empty string."""
    for section in (":env:", "global", "install"):
        answer = subprocess.run(
            [str(PYTHON), "-m", "pip", "config", "get", f"{section}.{option}"],
            capture_output=True,
            text=True,
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return " ".join(answer.stdout.split())
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
