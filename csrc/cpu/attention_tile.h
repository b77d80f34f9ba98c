// Attention of 16 queries to a tile of keys, the queries side by side in vectors: every loop over them is vertical, so
// a query rounds alike whatever stands beside it.
#pragma once

#include <cstdint>
#include <vector>

namespace pydiff {

constexpr int kQueries = 16;    // queries side by side
constexpr int kPanel = 8;       // keys, or columns of values, that one pass over memory serves
constexpr int64_t kTile = 128;  // keys between two rescalings of the output: whole panels

constexpr int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

// The softmax of 16 queries over the keys seen so far.
struct Softmax {
    float top[kQueries], sum[kQueries];  // the largest score, and the sum of exp(score - top)
    float ratio[kQueries];               // what the last tile multiplied all earlier sums by
};

// q (dim, 16); keys (panels, dim, 8); bias (keys,); values (panels of columns, keys, 8).
struct Tile {
    const float *q, *keys, *bias, *values;
    int64_t dim, panels, stride;  // panels of columns (0: the softmax alone), and the floats between two of them
    float scale;
};

// Numbers other than 0: those of list l, with their index, are at [starts[l], starts[l + 1]).
struct Lists {
    std::vector<int64_t> starts, index;
    std::vector<float> value;
};

// No key is seen yet.
void start(Softmax& s, float* out, int64_t size);

// Adds the keys [first, last) to the softmax and to out (columns, 16). Leaves exp(score - top) in weights, which has
// room for whole panels, and returns where the key `first` stands there.
float* add_tile(const Tile& t, int64_t first, int64_t last, Softmax& s, float* weights, float* out);

// What turns sums under `top` into shares of all that s has seen, `parts` such shares being averaged.
void shares(const float* top, const Softmax& s, float parts, float* share);

// The softmax over what both have seen.
Softmax join(const Softmax& a, const Softmax& b);

// What the pixels' share is multiplied by when the text's share becomes `text`: (1 - text) / pixels, 1 where there is
// no share of pixels.
void rescale(const float* text, const Softmax& pixels, float* share);

// out[r][i] += in[r][i] share[i]
void accumulate(const float* in, int64_t count, const float* share, float* out);

// out[i] += share[i] sum over r of in[r][i] weight[r]
void weigh(const float* in, int64_t count, const float* weight, const float* share, float* out);

// out[l][i] = sum over list l of in[index][i] value, i < width: kPanel or kQueries
void combine(const Lists& lists, const float* in, int width, float* out);

// out[c][r] = in[r][c], r < rows, c < columns; strides in floats
void transpose(const float* in, int64_t in_stride, float* out, int64_t out_stride, int64_t rows, int64_t columns);

// bfloat16 to float32, and back to the nearest, ties to even
void widen(const uint16_t* in, float* out, int64_t count);
void narrow(const float* in, uint16_t* out, int64_t count);

}  // namespace pydiff
