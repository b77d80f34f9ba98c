// Products of matrices: rows of numbers, wherever they are, times packed weights. A convolution is one whose rows are
// read at several places (its taps); a linear layer has one tap.
#pragma once

#include <cstdint>
#include <vector>

#include "wide.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int kColumns = 4 * kVector;  // of a panel of weights; the last panel has as many vectors as it needs
constexpr int kRows = 8;               // of a tile, at most

// How many rows a tile of so many vectors has: what the registers hold.
constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : 8; }

struct Segment {
    int64_t offset, length;  // numbers [offset, offset + length) from where a row is
};

// What numbers are multiplied: those of the network, or bytes that stand for them.
enum class Kind { float32, bfloat16, int8 };

constexpr int64_t size_of(Kind kind) { return kind == Kind::int8 ? 1 : kind == Kind::bfloat16 ? 2 : 4; }

// Bytes a for x = (a - 128) rows[row], and b for weights = b columns[column]; offsets: -128 times a column's sum of b.
struct Scales {
    const float *rows, *columns;
    const int32_t* offsets;
};

// c (rows of a tile, 16 vectors) = or += a b over the segments, whose numbers of a row follow each other in b: packed
// (length, 16 vectors), in bfloat16 as pairs (length / 2, 16 vectors, 2), in int8 by fours.
struct TileIn {
    const void* rows[kRows];
    const Segment* segments;  // one in int8
    int count;                // of segments
    const void* b;
    float* c;
    bool add;                // never in int8
    float row_scales[kRows];  // in int8, as is what follows: from the tile's first column on
    const float* columns;
    const int32_t* offsets;
};

void tile(const TileIn& in, int vectors, Kind kind);
void tile_of_bytes(const TileIn& in, int vectors);

// Pictures of height x width items, each a row of numbers.
struct Grid {
    int64_t images, height, width;
    int64_t rows() const { return images * height * width; }
};

// One of a grid's rows.
struct Index {
    int64_t image, line, item;
    static Index of(const Grid& grid, int64_t row) {
        const int64_t line = row / grid.width;
        return {line / grid.height, line % grid.height, row % grid.width};
    }
    void next(const Grid& grid) {
        if (++item < grid.width) return;
        item = 0;
        if (++line == grid.height) line = 0, ++image;
    }
};

// Where rows are: elements from one picture, line or item to the next.
struct Place {
    int64_t image, line, item;
    int64_t at(const Index& i) const { return i.image * image + i.line * line + i.item * item; }
};

// out = (act(x @ weights + bias + told) + residual) scale. geglu: a panel's first half of columns is multiplied by the
// gelu of its second half, which leaves half as many.
struct Product {
    Grid grid;
    const void* x;
    Place from;
    std::vector<int64_t> taps;  // elements from an item to where its numbers are read
    int64_t depth;              // numbers read at each, even in bfloat16
    const void* weights;        // packed, panel by panel
    int64_t outputs;            // columns of the packed weights that count
    const float *bias, *told;   // (outputs,), and one row of told_stride for each picture: each may be null
    int64_t told_stride;
    const void* residual;  // may be null
    Place beside;
    void* out;
    Place to;
    float scale;
    Act act;
    Kind kind;                // of x and the weights
    Scales scales;            // in int8: of x's items in their order, and of columns; there is one tap
    bool bfloat16, wide;      // residual and out: else float32; wide: out is float32 all the same
};

// The sums c (16 vectors) of one row become columns of the result, from `column` on.
void finish(const Product& p, const float* c, const Index& row, int64_t column, int vectors);
void product(const Product& p, int threads);

}  // namespace pydiff
#endif
