#include "bytes.h"

#ifdef PYDIFF_HAS_CLONES
#define PYDIFF_BYTES __attribute__((target("arch=x86-64-v4,avx512bf16,avx512vnni")))

namespace pydiff {

constexpr int64_t kSerialBytes = 1 << 14;  // below which starting threads costs more than they save

template <typename Number>
PYDIFF_WIDE static float row_of(const Number* x, int64_t count, uint8_t* out) {
    __m512i largest = _mm512_setzero_si512();  // as whole numbers: NaN is the largest, and the scale
    for (int64_t i = 0; i < count; i += kVector) {
        const __m512 size = _mm512_abs_ps(load(x + i, first_of(count - i)));
        largest = _mm512_max_epu32(largest, _mm512_castps_si512(size));
    }
    const uint32_t bits = _mm512_reduce_max_epu32(largest);
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    scale /= kLargest;
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0.0f);
    for (int64_t i = 0; i < count; i += kVector) {
        const __mmask16 mask = first_of(count - i);
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + i, mask), inverse));
        _mm512_mask_cvtepi32_storeu_epi8(out + i, mask, _mm512_add_epi32(rounded, _mm512_set1_epi32(kLargest + 1)));
    }
    return scale;
}

float row_of_bytes(const float* x, int64_t count, uint8_t* out) { return row_of(x, count, out); }
float row_of_bytes(const uint16_t* x, int64_t count, uint8_t* out) { return row_of(x, count, out); }

template <typename Number>
static void bytes_of(const Bytes& b, int threads) {
    const int64_t rows = b.x.grid.rows(), depth = b.x.channels;
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * depth > kSerialBytes)
    for (int64_t row = 0; row < rows; ++row) {
        const Number* x = static_cast<const Number*>(b.x.at) + b.x.place.at(Index::of(b.x.grid, row));
        b.scales[row] = row_of(x, depth, b.out + row * depth);
    }
}

void bytes(const Bytes& b, int threads) {
    (b.x.bfloat16 ? bytes_of<uint16_t> : bytes_of<float>)(b, threads);
}

// As a tile of other numbers (product_tile.cpp); sums are whole numbers, so their order does not matter.
template <int height, int parts>
PYDIFF_BYTES static void tile_of(const TileIn& in) {
    const auto* b = static_cast<const int8_t*>(in.b);
    __v16si sums[height][parts];  // not __m512i, which may alias: GCC would write it to memory at every step
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < parts; ++j) sums[r][j] = (__v16si)_mm512_loadu_si512(in.offsets + j * kVector);
    const uint8_t* a[height];
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r) a[r] = static_cast<const uint8_t*>(in.rows[r]) + in.segments[0].offset;
    for (int64_t k = 0; k < in.segments[0].length; k += 4, b += 4 * parts * kVector) {
        __m512i row[parts];
#pragma GCC unroll 4
        for (int j = 0; j < parts; ++j) row[j] = _mm512_loadu_si512(b + 4 * j * kVector);
#pragma GCC unroll 8
        for (int r = 0; r < height; ++r) {
            int32_t four;
            std::memcpy(&four, a[r] + k, sizeof four);
#pragma GCC unroll 4
            for (int j = 0; j < parts; ++j)
                sums[r][j] = (__v16si)_mm512_dpbusd_epi32((__m512i)sums[r][j], _mm512_set1_epi32(four), row[j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < parts; ++j) {
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(in.row_scales[r]), load(in.columns + j * kVector));
            store(in.c + (r * parts + j) * kVector, _mm512_mul_ps(_mm512_cvtepi32_ps((__m512i)sums[r][j]), scale));
        }
}

void tile_of_bytes(const TileIn& in, int vectors) {
    switch (vectors) {
        case 1: return tile_of<tile_rows(1), 1>(in);
        case 2: return tile_of<tile_rows(2), 2>(in);
        case 3: return tile_of<tile_rows(3), 3>(in);
        default: return tile_of<tile_rows(4), 4>(in);
    }
}

}  // namespace pydiff
#endif
