"""`python -m gankernels` is the command `gankernels`."""

from __future__ import annotations

from gankernels.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
