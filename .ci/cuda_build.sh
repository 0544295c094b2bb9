# What .ci/nvcc and .ci/emulator share; sourced.
fail() { printf 'ci: %s\n' "$1" >&2 && exit 1; }
configure() { # folder, options
  cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v python)" \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" "${@:2}" >"$1.configure.log" 2>&1 ||
    { cat "$1.configure.log"; fail "cmake"; }
}
build() { # folder; leaves what it took in FOLDER.cost
  python .ci/cost.py "$1.cost" cmake --build "$1" --target _cuda --parallel "$CMAKE_BUILD_PARALLEL_LEVEL" >"$1.build.log" 2>&1 ||
    { grep -vE 'ptxas info' "$1.build.log" | tail -n 60; fail "build of $1"; }
}
