// One tile of a product of matrices: as many sums as the registers hold, each over the inner dimension in its order, so
// that a row comes out the same whatever rows stand beside it.
#include "product.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

PYDIFF_WIDE_INLINE __m512 add_products(__m512 sum, const float* a, __m512 b) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*a), b, sum);
}
PYDIFF_WIDE_INLINE __m512 add_products(__m512 sum, const uint16_t* a, __m512 b) {  // of pairs
    int32_t both;
    std::memcpy(&both, a, sizeof both);
    return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)_mm512_set1_epi32(both));
}

template <typename Number, int height, int parts>
PYDIFF_WIDE static void tile_of(const TileIn& in) {
    constexpr int step = sizeof(float) / sizeof(Number);
    const Number* b = static_cast<const Number*>(in.b);
    __m512 sums[height][parts];
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < parts; ++j)
            sums[r][j] = in.add ? load(in.c + (r * parts + j) * kVector) : _mm512_setzero_ps();
    for (int s = 0; s < in.count; ++s) {
        const Number* a[height];
#pragma GCC unroll 8
        for (int r = 0; r < height; ++r) a[r] = static_cast<const Number*>(in.rows[r]) + in.segments[s].offset;
        for (int64_t k = 0; k < in.segments[s].length; k += step, b += step * parts * kVector) {
            __m512 row[parts];
#pragma GCC unroll 4
            for (int j = 0; j < parts; ++j) row[j] = _mm512_loadu_ps(b + step * j * kVector);
#pragma GCC unroll 8
            for (int r = 0; r < height; ++r)
#pragma GCC unroll 4
                for (int j = 0; j < parts; ++j) sums[r][j] = add_products(sums[r][j], a[r] + k, row[j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < parts; ++j) store(in.c + (r * parts + j) * kVector, sums[r][j]);
}

template <typename Number>
static void tile_with(const TileIn& in, int vectors) {
    switch (vectors) {
        case 1: return tile_of<Number, tile_rows(1), 1>(in);
        case 2: return tile_of<Number, tile_rows(2), 2>(in);
        case 3: return tile_of<Number, tile_rows(3), 3>(in);
        default: return tile_of<Number, tile_rows(4), 4>(in);
    }
}

void tile(const TileIn& in, int vectors, Kind kind) {
    if (kind == Kind::int8) return tile_of_bytes(in, vectors);
    kind == Kind::bfloat16 ? tile_with<uint16_t>(in, vectors) : tile_with<float>(in, vectors);
}

}  // namespace pydiff
#endif
