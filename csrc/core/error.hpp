// Assertions of the native side. A failure here is a defect of gankernels: user input was checked in Python.
#pragma once

#include <stdexcept>
#include <string>

namespace gk {

struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

#define GK_CHECK(condition, message)                                                              \
  do {                                                                                            \
    if (!(condition))                                                                             \
      throw ::gk::InternalError(std::string("gankernels internal error: ") + (message) +          \
                                " [" #condition "] at " __FILE__ ":" + std::to_string(__LINE__)); \
  } while (0)

}  // namespace gk
