// Matrix products whose inner extent is short.
#pragma once

#include "../core/view.hpp"

namespace gk::cpu {

// c(B, M, N) is large, b(B, K, N) fits into a cache, and the rows of both lie in whole vectors.
template <class T>
bool is_outer(const View<const T>& a, const View<const T>& b, const View<T>& c);
template <class T>
void matmul_outer(const View<const T>& a, const View<const T>& b, const View<T>& c);

}  // namespace gk::cpu
