// GK_HOST_DEVICE: what the host and the device both call.
#pragma once

#if defined(__CUDACC__)
#define GK_HOST_DEVICE __host__ __device__
#else
#define GK_HOST_DEVICE
#endif
