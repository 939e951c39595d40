// One check for everything a caller can get wrong; Python sees it as ValueError.
#pragma once

#include <sstream>
#include <stdexcept>

#define PIXELIS_CHECK(condition, message)      \
  do {                                         \
    if (!(condition)) {                        \
      std::ostringstream text;                 \
      text << message;                         \
      throw std::invalid_argument(text.str()); \
    }                                          \
  } while (0)
