// Products of matrices in bytes: what stands for the numbers of a row and of a column of weights, to 8 bits each.
#pragma once

#include "normalise.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int kLargest = 127;  // that a number of a row may become; 128 is added to it

// Rows of x as bytes round(x / scale) + 128, scale the largest absolute value of a row over kLargest: out (rows, depth),
// scales (rows,).
struct Bytes {
    Picture x;
    uint8_t* out;
    float* scales;
};

void bytes(const Bytes& b, int threads);

// The same of one row of `count` numbers; its scale.
float row_of_bytes(const float* x, int64_t count, uint8_t* out);
float row_of_bytes(const uint16_t* x, int64_t count, uint8_t* out);

}  // namespace pydiff
#endif
