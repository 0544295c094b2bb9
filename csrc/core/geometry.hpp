// Plain descriptions of what a kernel is asked to do. Always rank 3: 2-D has depth 1, 1-D has depth and height 1.
// Python (gankernels/geometry.py) checks every value once, with the user's numbers in the message; native code trusts
// them.
#pragma once

#include <cstdint>

namespace gk {

using std::int64_t;

// y[n,o,p] = sum over c,k of w[o,c,k] * x[n, c, stride*p + dilation*k - pad_lo], zero outside x.
// Locally connected convolution has the same geometry and a w that also depends on p.
struct ConvGeometry {
  int64_t batch = 0;
  int64_t in_channels = 0;   // C, all groups together
  int64_t out_channels = 0;  // O, all groups together
  int64_t groups = 1;
  int64_t x[3] = {1, 1, 1};
  int64_t kernel[3] = {1, 1, 1};
  int64_t y[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t dilation[3] = {1, 1, 1};
  int64_t pad_lo[3] = {0, 0, 0};  // the high padding is implied by y; negative values crop

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t weights() const { return out_channels * (in_channels / groups) * taps(); }
  int64_t x_volume() const { return x[0] * x[1] * x[2]; }
  int64_t y_volume() const { return y[0] * y[1] * y[2]; }
};

// y = conv(upsample_nearest(x, factor), w): `conv` is the convolution on the large image, stride and dilation 1.
struct UpsampleConvGeometry {
  ConvGeometry conv;
  int64_t factor[3] = {1, 1, 1};

  // The convolution of stride `factor` whose image is our output: slot x is our y, slot y our x. Its kernel holds sums
  // of ours, v[j] = sum of w[k] over K - 1 - j <= k < K - 1 - j + f on each axis.
  ConvGeometry strided() const {
    ConvGeometry s = conv;
    s.in_channels = conv.out_channels, s.out_channels = conv.in_channels;
    for (int i = 0; i < 3; ++i) {
      s.x[i] = conv.y[i];
      s.y[i] = conv.x[i] / factor[i];
      s.kernel[i] = conv.kernel[i] + factor[i] - 1;
      s.stride[i] = factor[i];
      s.pad_lo[i] = conv.kernel[i] - 1 - conv.pad_lo[i];
    }
    return s;
  }
};

enum class ConvAlgorithm : int {
  automatic = 0,
  direct = 1,
  im2col = 2,
  fft = 3,
  fast = 4,
  channels = 5,
  tf32 = 6,
  bf16 = 7,
  measured = 8,
  measured_fast = 9,
  bf16_auto = 10,
  bf16_fast = 11,
  batch = 12,
  rows = 13
};

// A pooling window over each (n, c) image.
struct WindowGeometry {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t x[3] = {1, 1, 1};
  int64_t kernel[3] = {1, 1, 1};
  int64_t y[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t dilation[3] = {1, 1, 1};
  int64_t pad_lo[3] = {0, 0, 0};
  int64_t pad_hi[3] = {0, 0, 0};
  int64_t count_include_pad = 1;  // average: does padding count in the divisor
  int64_t divisor_override = 0;   // average: 0 means none
};

}  // namespace gk
