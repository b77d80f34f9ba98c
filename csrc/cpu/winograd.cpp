#include "winograd.h"

#include <algorithm>

#include "bytes.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int64_t kStrip = 64;       // channels that are transformed together
constexpr int64_t kBlockTiles = 48;  // tiles of the result that meet a panel of weights before the next one is taken

// count channels of one line of x, activated, in float32, with zeros on its left and right: out (width + 3, kStrip).
template <typename Number>
PYDIFF_WIDE static void read_line(const Winograd& w, int64_t image, int64_t line, int64_t channel, int64_t count,
                                  float* out) {
    const Product& p = w.p;
    const int64_t width = p.grid.width, depth = p.depth;
    if (line < 0 || line >= p.grid.height) {
        std::fill(out, out + (width + 3) * kStrip, 0.0f);
        return;
    }
    for (const int64_t edge : {int64_t{0}, width + 1, width + 2}) std::fill_n(out + edge * kStrip, kStrip, 0.0f);
    const Number* x = static_cast<const Number*>(p.x) + image * p.from.image + line * p.from.line + channel;
    for (int64_t c = 0; c < count; c += kVector) {
        const float* affine = w.head.affines ? w.head.affines + image * 3 * depth + channel + c : nullptr;
        const __m512 centre = affine ? load(affine) : _mm512_setzero_ps();
        const __m512 gain = affine ? load(affine + depth) : _mm512_set1_ps(1);
        const __m512 offset = affine ? load(affine + 2 * depth) : _mm512_setzero_ps();
        for (int64_t i = 0; i < width; ++i) {
            const __m512 h = _mm512_fmadd_ps(_mm512_sub_ps(load(x + i * p.from.item + c), centre), gain, offset);
            store(out + (i + 1) * kStrip + c, activated(h, w.head.act));
        }
    }
}

// Points 4 i to 4 i + 3 of a tile from what its four columns have of line i.
template <typename Number>
PYDIFF_WIDE_INLINE void put_points(Number* at, int64_t stride, const __m512 (&r)[4]) {
    store(at, _mm512_sub_ps(r[0], r[2])), store(at + stride, _mm512_add_ps(r[1], r[2]));
    store(at + 2 * stride, _mm512_sub_ps(r[2], r[1])), store(at + 3 * stride, _mm512_sub_ps(r[1], r[3]));
}

// Four lines (width + 3, kStrip) to the 16 points of a line of tiles.
template <typename Number>
PYDIFF_WIDE static void transform_line(const float* const* lines, int64_t tiles, int64_t count, Number* out,
                                       int64_t stride, int64_t depth) {
    for (int64_t t = 0; t < tiles; ++t, out += depth)
        for (int64_t c = 0; c < count; c += kVector) {
            __m512 rows[4][4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const int64_t at = (2 * t + j) * kStrip + c;
                const __m512 a = load(lines[0] + at), b = load(lines[1] + at), d = load(lines[2] + at);
                rows[0][j] = _mm512_sub_ps(a, d), rows[1][j] = _mm512_add_ps(b, d);
                rows[2][j] = _mm512_sub_ps(d, b), rows[3][j] = _mm512_sub_ps(b, load(lines[3] + at));
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) put_points(out + 4 * i * stride + c, stride, rows[i]);
        }
}

// Lines of tiles [first, last) of all pictures, of some channels, in the band that begins at line `origin`.
template <typename Number>
static void transform(const Winograd& w, int64_t origin, int64_t first, int64_t last, int64_t channel, float* strips) {
    const int64_t depth = w.p.depth, count = std::min(kStrip, depth - channel), size = (w.p.grid.width + 3) * kStrip;
    const int64_t lines = w.tiles().height, items = w.tiles().width;
    float* ring[4] = {strips, strips + size, strips + 2 * size, strips + 3 * size};
    for (int64_t i = first; i < last; ++i) {
        const int64_t image = i / lines, line = 2 * (i % lines) - 1;
        const bool follows = i > first && line > 0;  // two of its lines are there already
        if (follows) std::swap(ring[0], ring[2]), std::swap(ring[1], ring[3]);
        for (int64_t j = follows ? 2 : 0; j < 4; ++j) read_line<Number>(w, image, line + j, channel, count, ring[j]);
        Number* out = static_cast<Number*>(w.points) + (i - origin) * items * depth + channel;
        transform_line(ring, items, count, out, w.band * items * depth, depth);
    }
}

// Rows [first, last) of the band's 16 matrices, as bytes.
static void points_to_bytes(const Winograd& w, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * w.p.depth;
        w.scales[row] = w.p.bfloat16
                            ? row_of_bytes(static_cast<const uint16_t*>(w.points) + at, w.p.depth, w.bytes + at)
                            : row_of_bytes(static_cast<const float*>(w.points) + at, w.p.depth, w.bytes + at);
    }
}

// sums (16, stride) of a tile to its 2x2 rows (4, count) of the result.
PYDIFF_WIDE static void untransform(const float* sums, int64_t stride, int64_t count, float* out) {
    for (int64_t c = 0; c < count; c += kVector) {
        __m512 rows[2][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const float* m = sums + j * stride + c;
            const __m512 a = load(m + 4 * stride), b = load(m + 8 * stride);
            rows[0][j] = _mm512_add_ps(_mm512_add_ps(load(m), a), b);
            rows[1][j] = _mm512_sub_ps(_mm512_sub_ps(a, b), load(m + 12 * stride));
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            const __m512* r = rows[i];
            store(out + 2 * i * count + c, _mm512_add_ps(_mm512_add_ps(r[0], r[1]), r[2]));
            store(out + (2 * i + 1) * count + c, _mm512_sub_ps(_mm512_sub_ps(r[1], r[2]), r[3]));
        }
    }
}

// Tiles [first, last) of the panel of columns that begins at `column`, in the band that begins at tile `origin`.
// sums: (16, kBlockTiles + kRows, columns).
static void block(const Winograd& w, int64_t origin, int64_t first, int64_t last, int64_t column, int vectors,
                  float* sums) {
    const Product& p = w.p;
    const Grid tiles = w.tiles();
    const int64_t size = size_of(p.kind), width = vectors * kVector, high = tile_rows(vectors), depth = p.depth;
    const int64_t stride = (kBlockTiles + kRows) * width, columns = (p.outputs + kVector - 1) / kVector * kVector;
    for (int64_t point = 0; point < kPoints; ++point) {
        const int64_t base = point * w.band * tiles.width - origin;  // of its rows
        const auto* x = static_cast<const char*>(p.kind == Kind::int8 ? w.bytes : w.points) + base * depth * size;
        const Segment all{0, depth};
        TileIn in;
        in.segments = &all, in.count = 1, in.add = false;
        in.b = static_cast<const char*>(p.weights) + (point * columns + column) * depth * size;
        in.columns = p.scales.columns + point * columns + column, in.offsets = p.scales.offsets + point * columns + column;
        for (int64_t tile_ = first; tile_ < last; tile_ += high) {
            for (int64_t r = 0; r < high; ++r) {
                const int64_t row = std::min(tile_ + r, last - 1);
                in.rows[r] = x + row * depth * size;
                if (p.kind == Kind::int8) in.row_scales[r] = w.scales[base + row];
            }
            in.c = sums + point * stride + (tile_ - first) * width;
            tile(in, vectors, p.kind);
        }
    }
    Index index = Index::of(tiles, first);
    alignas(64) float rows[4 * kColumns];
    for (int64_t t = first; t < last; ++t, index.next(tiles)) {
        untransform(sums + (t - first) * width, stride, width, rows);
        for (int64_t i = 0; i < 4; ++i) {
            const Index row{index.image, 2 * index.line + i / 2, 2 * index.item + i % 2};
            if (row.line < p.grid.height && row.item < p.grid.width) finish(p, rows + i * width, row, column, vectors);
        }
    }
}

void winograd(const Winograd& w, int threads) {
    const Product& p = w.p;
    const int64_t panels = (p.outputs + kColumns - 1) / kColumns, strips = (p.depth + kStrip - 1) / kStrip;
    const int64_t lines = p.grid.images * w.tiles().height, items = w.tiles().width;
    const int last = static_cast<int>((p.outputs - (panels - 1) * kColumns + kVector - 1) / kVector);
    const int64_t room = std::max(4 * (p.grid.width + 3) * kStrip, kPoints * (kBlockTiles + kRows) * kColumns);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<float> memory(room);
        for (int64_t origin = 0; origin < lines; origin += w.band) {
            const int64_t end = std::min(origin + w.band, lines), parts = std::min<int64_t>(threads, end - origin);
            const int64_t blocks = ((end - origin) * items + kBlockTiles - 1) / kBlockTiles;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < parts * strips; ++i) {
                const int64_t part = i / strips, from = origin + (end - origin) * part / parts;
                const int64_t to = origin + (end - origin) * (part + 1) / parts;
                (p.bfloat16 ? transform<uint16_t> : transform<float>)(w, origin, from, to, i % strips * kStrip,
                                                                      memory.data());
            }
            if (p.kind == Kind::int8) {
#pragma omp for schedule(static)
                for (int64_t i = 0; i < kPoints * blocks; ++i) {
                    const int64_t base = i / blocks * w.band * items, first = i % blocks * kBlockTiles;
                    points_to_bytes(w, base + first, base + std::min(first + kBlockTiles, (end - origin) * items));
                }
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < panels * blocks; ++i) {
                const int64_t panel = i / blocks, first = origin * items + i % blocks * kBlockTiles;
                block(w, origin * items, first, std::min(first + kBlockTiles, end * items), panel * kColumns,
                      panel == panels - 1 ? last : 4, memory.data());
            }
        }
    }
}

}  // namespace pydiff
#endif
