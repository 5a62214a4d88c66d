"""`python -m gpu_validate`: the same commands as `chameleon gpu`."""

from __future__ import annotations

import sys

from sim.cli.app import app

if __name__ == "__main__":
    app(args=["gpu", *sys.argv[1:]], prog_name="chameleon")
