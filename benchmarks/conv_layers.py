"""python -m benchmarks.conv_layers: the layers of 3dgan; short for `python -m benchmarks --part layers`."""

import sys

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main(["--part", "layers", "--workload", "3dgan", "--dtype", "float32", *sys.argv[1:]]))
