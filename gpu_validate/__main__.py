"""`python -m gpu_validate`: the same commands as `chameleon gpu`."""

from __future__ import annotations

import sys

from sim.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "gpu")
    main()
