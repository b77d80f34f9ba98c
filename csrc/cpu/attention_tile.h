// Attention of 32 queries to a tile of keys, the queries side by side in vectors: every loop over them is vertical, so
// a query rounds alike whatever stands beside it.
//
// Factors of products stand in words of four bytes: a float32, or two bfloat16 that follow each other along the sum
// where the processor multiplies such pairs. Softmax is over products q k + bias, times `scale` in units of log(2): its
// exponentials are powers of 2.
#pragma once

#include <cstdint>
#include <vector>

namespace pydiff {

constexpr int kQueries = 32;    // queries side by side
constexpr int kPanel = 8;       // keys, or columns of values, that one pass over memory serves
constexpr int64_t kTile = 128;  // keys between two rescalings of the output: whole panels

constexpr int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

// The softmax of the queries over the keys seen so far.
struct Softmax {
    float top[kQueries], sum[kQueries];  // the largest product, and the sum of the weights
    float ratio[kQueries];               // what the last tile multiplied all earlier sums by
    float scale;
};

// A head's queries q (words, 32), keys (panels, words, 8), bias (keys,) and values (panels of columns, words, 8).
struct Tile {
    const float *q, *keys, *bias, *values;
    int64_t words, panels, stride;  // words of a key; panels of columns, and the words between two of them
    float scale;
    bool pairs;  // words are pairs of bfloat16
};

// Numbers other than 0: those of list l, with their index, are at [starts[l], starts[l + 1]).
struct Lists {
    std::vector<int64_t> starts, index;
    std::vector<float> value;
};

// No key is seen yet.
void start(Softmax& s, float scale);

// Adds the keys [first, last) to the softmax. Leaves weights 2^((product - top) scale), 0 outside of [first, last), in
// rows of which the first is the key at whole panels before `first`, and the last at whole panels from `last`.
void add_scores(const Tile& t, int64_t first, int64_t last, Softmax& s, float* weights);

// out (columns, 32) = out ratio + values of the keys [first, last) times the weights that add_scores left.
void add_values(const Tile& t, int64_t first, int64_t last, const float* weights, const float* ratio, float* out);

// The same with pairs of bfloat16, which is what the two above call for such tiles.
bool has_pairs();
void multiply_pairs(const Tile& t, int64_t first, int64_t last, float* products);
void add_pairs(const Tile& t, int64_t first, int64_t last, const float* weights, const float* ratio, float* out);

// What turns sums under `top` into shares of all that s has seen, `parts` such shares being averaged.
void shares(const float* top, const Softmax& s, float parts, float* share);

// The softmax over what both have seen.
Softmax join(const Softmax& a, const Softmax& b);

// What the pixels' share is multiplied by when the text's share becomes `text`: (1 - text) / pixels, 1 where there is
// no share of pixels.
void rescale(const float* text, const Softmax& pixels, float* share);

// out[r][i] *= share[i]
void multiply(float* out, int64_t count, const float* share);

// out[r][i] += in[r][i] share[i]
void accumulate(const float* in, int64_t count, const float* share, float* out);

// out[l][i] = sum over list l of in[index][i] value
void combine(const Lists& lists, const float* in, float* out);

// Own weights become edited ones: own[t][i] = own[t][i] share[i] keep[t] + sum over list t of lent[index][i] value.
// total[i] += sum over t of them
void edit(const Lists& lists, const float* lent, const float* share, const float* keep, float* own, float* total);

// out[c][r] = in[r][c], r < rows, c < columns; strides in words
void transpose(const float* in, int64_t in_stride, float* out, int64_t out_stride, int64_t rows, int64_t columns);

// Panels of numbers, each with the other of its pair: word c of panel p is at out[p stride + c]
void interleave(const uint16_t* low, const uint16_t* high, int64_t panels, float* out, int64_t stride);

// bfloat16 to float32, and back to the nearest, ties to even
void widen(const uint16_t* in, float* out, int64_t count);
void narrow(const float* in, uint16_t* out, int64_t count);

}  // namespace pydiff
