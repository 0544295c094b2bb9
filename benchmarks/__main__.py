"""python -m benchmarks: gankernels against PyTorch and ONNX Runtime; see --help and --list."""

import sys

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
