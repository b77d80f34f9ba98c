// Products of matrices: the order in which tiles are taken, and what is made of their sums.
#include "product.h"

#include <algorithm>

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int64_t kChunkBytes = 1 << 17;  // of a panel of weights that stay in the second-level cache
constexpr int64_t kBlockRows = 96;        // rows that meet such a chunk before the next one is taken
constexpr int64_t kSerialWork = 1 << 15;  // multiplications below which starting threads costs more than they save

// A part of the inner dimension: its segments, and where its weights begin in a panel, in rows.
struct Chunk {
    std::vector<Segment> segments;
    int64_t first = 0, length = 0;
};

static std::vector<Chunk> chunks_of(const Product& p, int vectors) {
    if (p.kind == Kind::int8) return {{{{0, p.depth}}, 0, p.depth}};  // which fits
    const int64_t room = kChunkBytes / (vectors * kVector * size_of(p.kind)) / 2 * 2;  // even, so that pairs stay whole
    std::vector<Chunk> chunks(1);
    int64_t done = 0;
    for (const int64_t tap : p.taps)
        for (int64_t from = 0; from < p.depth;) {
            if (chunks.back().length == room) chunks.push_back({{}, done, 0});
            const int64_t length = std::min(p.depth - from, room - chunks.back().length);
            auto& segments = chunks.back().segments;
            const bool follows = !segments.empty() && segments.back().offset + segments.back().length == tap + from;
            if (follows) segments.back().length += length;  // taps of one line, where items follow each other
            else segments.push_back({tap + from, length});
            chunks.back().length += length, from += length, done += length;
        }
    return chunks;
}

template <typename Number, typename Out>
PYDIFF_WIDE_INLINE void finish_as(const Product& p, const float* c, const Index& row, int64_t column, int vectors) {
    const bool gated = p.act == Act::geglu;
    const int64_t half = vectors / 2 * kVector, shown = gated ? column / 2 : column;
    const int64_t left = std::min<int64_t>(p.outputs - column, vectors * kVector) / (gated ? 2 : 1);
    const float* bias = p.bias ? p.bias + column : nullptr;
    const float* told = p.told ? p.told + row.image * p.told_stride + column : nullptr;
    const Number* residual = p.residual ? static_cast<const Number*>(p.residual) + p.beside.at(row) + shown : nullptr;
    Out* out = static_cast<Out*>(p.out) + p.to.at(row) + shown;
    for (int64_t i = 0; i < left; i += kVector) {
        const __mmask16 mask = first_of(left - i);
        __m512 x = load(c + i);
        if (bias) x = _mm512_add_ps(x, load(bias + i, mask));
        if (told) x = _mm512_add_ps(x, load(told + i, mask));
        x = activated(x, p.act);
        if (gated) {
            __m512 gate = load(c + half + i);
            if (bias) gate = _mm512_add_ps(gate, load(bias + half + i, mask));
            x = _mm512_mul_ps(x, gelu(gate));
        }
        if (residual) x = _mm512_add_ps(x, load(residual + i, mask));
        store(out + i, _mm512_mul_ps(x, _mm512_set1_ps(p.scale)), mask);
    }
}

PYDIFF_WIDE void finish(const Product& p, const float* c, const Index& row, int64_t column, int vectors) {
    if (!p.bfloat16) return finish_as<float, float>(p, c, row, column, vectors);
    p.wide ? finish_as<uint16_t, float>(p, c, row, column, vectors)
           : finish_as<uint16_t, uint16_t>(p, c, row, column, vectors);
}

// Rows [first, last) of the panel whose columns begin at `column`. sums: room for their tiles.
static void block(const Product& p, const std::vector<Chunk>& chunks, int64_t first, int64_t last, int64_t column,
                  int vectors, float* sums) {
    const int64_t size = size_of(p.kind), width = vectors * kVector, high = tile_rows(vectors);
    const int64_t depth = chunks.back().first + chunks.back().length;
    const auto* panel = static_cast<const char*>(p.weights) + column * depth * size;
    const auto* x = static_cast<const char*>(p.x);
    for (const Chunk& chunk : chunks) {
        TileIn in;
        in.segments = chunk.segments.data(), in.count = static_cast<int>(chunk.segments.size());
        in.b = panel + chunk.first * width * size, in.add = chunk.first > 0, in.c = sums;
        in.columns = p.scales.columns + column, in.offsets = p.scales.offsets + column;
        const bool ends = &chunk == &chunks.back();
        Index index = Index::of(p.grid, first), shown = index;
        for (int64_t row = first; row < last; row += high, in.c += chunks.size() > 1 ? high * width : 0) {
            const int64_t count = std::min(high, last - row);
            for (int64_t r = 0; r < count; ++r, index.next(p.grid)) in.rows[r] = x + p.from.at(index) * size;
            for (int64_t r = count; r < high; ++r) in.rows[r] = in.rows[0];
            for (int64_t r = 0; p.kind == Kind::int8 && r < count; ++r) in.row_scales[r] = p.scales.rows[row + r];
            tile(in, vectors, p.kind);
            for (int64_t r = 0; ends && r < count; ++r, shown.next(p.grid))
                finish(p, in.c + r * width, shown, column, vectors);
        }
    }
}

void product(const Product& p, int threads) {
    const int64_t rows = p.grid.rows(), panels = (p.outputs + kColumns - 1) / kColumns;
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows, last = p.outputs - (panels - 1) * kColumns;
    const int last_vectors = static_cast<int>((last + kVector - 1) / kVector);
    const auto whole = chunks_of(p, 4), rest = chunks_of(p, last_vectors);
    if (rows * p.outputs * p.depth * static_cast<int64_t>(p.taps.size()) < kSerialWork) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        alignas(64) float sums[(kBlockRows + kRows) * kColumns];
#pragma omp for schedule(static)
        for (int64_t i = 0; i < panels * blocks; ++i) {
            const int64_t panel = i / blocks, first = i % blocks * kBlockRows;
            const bool ends = panel == panels - 1;
            block(p, ends ? rest : whole, first, std::min(first + kBlockRows, rows), panel * kColumns,
                  ends ? last_vectors : 4, sums);
        }
    }
}

}  // namespace pydiff
#endif
