"""One virtual environment per client library: `python tests/interop/venvs.py [CLIENT ...]`.

Each is `.interop/CLIENT`, with what `tests/interop/CLIENT/requirements.txt` asks for. It sees the
packages of the Python that runs this script, torch among them, and has of its own only what the
client needs otherwise: a Gymnasium that the client's own bounds exclude is replaced in the client's
environment alone, by the newest that they allow. A client that cannot be installed leaves
`.interop/CLIENT/failed.txt` with the reason, and the others are made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENVS = HERE.parents[1] / ".interop"
CLIENTS = sorted(file.parent.name for file in HERE.glob("*/requirements.txt"))
_SHOWN = ("gymnasium", "torch", "numpy", "stable-baselines3")


def python(client: str) -> Path:
    """The client's interpreter."""
    return VENVS / client / "bin" / "python"


def requirements(client: str) -> Path:
    """What the client's environment is made from."""
    return HERE / client / "requirements.txt"


def failure(client: str) -> str | None:
    """Why there is no environment of the client; None where there is one."""
    reason = VENVS / client / "failed.txt"
    if reason.exists():
        return reason.read_text().strip()
    return None if (VENVS / client / "made.txt").exists() else "it was not made: make interop"


def make(client: str) -> None:
    """Make the client's environment, unless it is there and made from the same requirements."""
    folder, wanted = VENVS / client, requirements(client).read_text()
    made, failed = folder / "made.txt", folder / "failed.txt"
    if made.exists() and made.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    shared = sysconfig.get_path("purelib")
    # `addsitedir`, not a bare path: the .pth files in there, of editable installs, count too.
    (Path(own) / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    done = subprocess.run(
        [python(client), "-m", "pip", "install", "--quiet", "-r", requirements(client)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        failed.write_text(f"pip could not install it: {done.stderr.strip()[-1_000:]}")
    else:
        made.write_text(wanted)


def versions(client: str) -> str:
    """What the client's environment has, in one line: what it asks for, and what it shares."""
    code = (
        "import importlib.metadata as m, sys\n"
        "print(', '.join(f'{name} {m.version(name)}' for name in sys.argv[1:]))"
    )
    names = [line.split("[")[0] for line in _names(client)]
    every = dict.fromkeys([*names, *_SHOWN])
    done = subprocess.run(
        [python(client), "-c", code, *every], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _names(client: str) -> list[str]:
    """Names of the required packages, without bounds."""
    lines = requirements(client).read_text().splitlines()
    return [
        line.translate(str.maketrans("=<>~!,", "      ")).split()[0]
        for line in lines
        if line and not line.startswith("#")
    ]


def main() -> int:
    """Make what is named, or all; returns the exit code: 1 where a client failed."""
    chosen = sys.argv[1:] or CLIENTS
    if unknown := sorted(set(chosen) - set(CLIENTS)):
        print(f"no clients: {', '.join(unknown)}; there are {', '.join(CLIENTS)}", file=sys.stderr)
        return 2
    failures = 0
    for client in chosen:
        make(client)
        reason = failure(client)
        failures += reason is not None
        print(f"{client}: {reason or versions(client)}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
