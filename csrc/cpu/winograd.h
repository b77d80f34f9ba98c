// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016): 16 products of matrices in place of
// 36 multiplications for a 2x2 tile of the result.
#pragma once

#include "product.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int kPoints = 16;

// What becomes of x before it is convolved: (x - centre) gain + offset per picture and channel, then its activation.
struct Head {
    const float* affines;  // (images, 3, channels): null for x as it is
    Act act;
};

struct Winograd {
    Product p;  // x (images, height, width, depth), depth a multiple of 16, without taps; weights: 16 times a product's
    Head head;
    void* points;    // room for 16 matrices (tiles of a band, depth) of x's type
    uint8_t* bytes;  // and of the bytes that stand for them, where products are of bytes
    float* scales;   // (16, tiles of a band), of their rows
    int64_t band;    // lines of tiles that are worked on together
    Grid tiles() const { return {p.grid.images, (p.grid.height + 1) / 2, (p.grid.width + 1) / 2}; }
};

void winograd(const Winograd& w, int threads);

}  // namespace pydiff
#endif
