// Norms over pictures whose channels stand together, and changes of size.
#pragma once

#include "product.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

// A grid of rows of `channels` numbers in memory.
struct Picture {
    void* at;
    Grid grid;
    Place place;
    int64_t channels;
    bool bfloat16;  // else float32
};

// Per picture and channel what makes a group norm of x, weight and bias, and scale and shift:
// (x - centre) gain + offset, affines (images, 3, channels).
struct Statistics {
    Picture x;
    int64_t groups;
    double eps;
    const float *weight, *bias, *scale, *shift;  // (channels,) twice; rows of told_stride per picture: null for none
    int64_t told_stride;
    float* affines;
};

// out = act((x - centre) gain + offset), affines null for x itself, with `edge` items of zeros around every picture.
struct Normalise {
    Picture x, out;
    const float* affines;
    Act act;
    int64_t edge;
};

// out is x at another size: each item the nearest one of x, or with `mean` the mean of 2x2 of them. edge as above.
struct Resample {
    Picture x, out;
    bool mean;
    int64_t edge;
};

// (x - mean) / sqrt(variance + eps) weight + bias over the channels of each row.
struct LayerNorm {
    Picture x, out;
    const float *weight, *bias;
    float eps;
};

void statistics(const Statistics& s, int threads);
void normalise(const Normalise& n, int threads);
void resample(const Resample& r, int threads);
void layer_norm(const LayerNorm& l, int threads);

}  // namespace pydiff
#endif
