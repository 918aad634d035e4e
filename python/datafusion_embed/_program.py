"""The program embedsql, which the extension module has in it."""

from __future__ import annotations

import sys

from ._native import run_program


def main() -> None:
    """Runs the program with the command line of this process, and ends with its exit code."""
    sys.exit(run_program(sys.argv))


if __name__ == "__main__":
    main()
