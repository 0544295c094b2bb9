# gankernels._cuda from the sources in csrc/cuda: by nvcc for GPUs, or by the C++ compiler for the emulator.
set(GK_CUDA_KERNELS
    csrc/cuda/binary.cu
    csrc/cuda/columns.cu
    csrc/cuda/conv.cu
    csrc/cuda/conv_direct.cu
    csrc/cuda/conv_folded.cu
    csrc/cuda/conv_im2col.cu
    csrc/cuda/conv_implicit.cu
    csrc/cuda/counters.cu
    csrc/cuda/epilogue.cu
    csrc/cuda/factors.cu
    csrc/cuda/gather.cu
    csrc/cuda/gemm.cu
    csrc/cuda/gemm_bfloat16.cu
    csrc/cuda/gemm_tensor.cu
    csrc/cuda/local_conv.cu
    csrc/cuda/matmul.cu
    csrc/cuda/norm.cu
    csrc/cuda/optim.cu
    csrc/cuda/pointwise.cu
    csrc/cuda/random.cu
    csrc/cuda/reduce.cu
    csrc/cuda/unary.cu
    csrc/cuda/upsample.cu
    csrc/cuda/upsample_conv.cu
    csrc/cuda/window.cu)
set(GK_CUDA_HOST csrc/bindings/device_record.cpp csrc/bindings/module_cuda.cpp csrc/cuda/memory.cpp)
option(GANKERNELS_WERROR "warnings are errors" OFF)
set(warnings -Wall -Wextra -Werror=return-type)
if(GANKERNELS_WERROR)
  list(APPEND warnings -Werror)
endif()

if(GK_CUDA_EMULATED)
  set(emulator csrc/cuda/emulator/machine.cpp csrc/cuda/emulator/runtime.cpp csrc/cuda/emulator/shadow.cpp
               csrc/cuda/emulator/tensor_core.cpp)
  # -fsanitize=thread puts a call before every access to memory, which emulator/shadow.cpp answers; its own library is
  # not linked. Loops stay loops: a memset would be made unseen.
  set_source_files_properties(${GK_CUDA_KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
                              "-x;c++;-O2;-fsanitize=thread;-fno-tree-loop-distribute-patterns;-Wno-unknown-pragmas")
  pybind11_add_module(_cuda NO_EXTRAS ${GK_CUDA_HOST} ${GK_CUDA_KERNELS} ${emulator})
  target_compile_definitions(_cuda PRIVATE GK_EMULATED)
  target_compile_options(_cuda PRIVATE ${warnings} -ffp-contract=off)
  target_link_libraries(_cuda PRIVATE Threads::Threads)
else()
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # and libcuda is opened by its first call: imports where there is no driver
  enable_language(CUDA)
  pybind11_add_module(_cuda NO_EXTRAS ${GK_CUDA_HOST} csrc/cuda/runtime.cpp ${GK_CUDA_KERNELS})
  set_target_properties(_cuda PROPERTIES CUDA_ARCHITECTURES OFF CUDA_VISIBILITY_PRESET hidden)
  # what nvcc itself uses: find_package(CUDAToolkit) does not know the layout of the toolkit's pip packages
  target_include_directories(_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  # -fmad=false: a*b + c is fused only where the source says multiply_add, hence the same bits as everywhere else
  set(nvcc_warnings -Wall,-Wextra)
  if(GANKERNELS_WERROR)
    string(APPEND nvcc_warnings ",-Werror")
  endif()
  target_compile_options(_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>"
    "$<$<COMPILE_LANGUAGE:CUDA>:${GK_CUDA_GENCODE};-fmad=false;-Xcompiler=${nvcc_warnings};$<$<BOOL:${GANKERNELS_WERROR}>:-Werror=all-warnings>>")
endif()
install(TARGETS _cuda DESTINATION gankernels)
