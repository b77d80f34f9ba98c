// Products of pairs of bfloat16, summed in float32 (AVX512-BF16): twice as many in a time as of float32.
#include <algorithm>

#include "attention_tile.h"
#include "simd.h"

#ifdef PYDIFF_HAS_CLONES
#include <immintrin.h>

#define PYDIFF_PAIRS __attribute__((target("arch=x86-64-v4,avx512bf16")))

namespace pydiff {

static_assert(kQueries == 32, "two vectors of queries");

bool has_pairs() { return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16"); }

// c[r][h] = sum over x of a[x][r] b[x][h]: a (length, kPanel), b (length, kQueries)
PYDIFF_PAIRS PYDIFF_INLINE void outer(const float* a, const float* b, int64_t length, __m512 (&c)[kPanel][2]) {
#pragma GCC unroll 8
    for (int r = 0; r < kPanel; ++r) c[r][0] = c[r][1] = _mm512_setzero_ps();
    for (int64_t x = 0; x < length; ++x, a += kPanel, b += kQueries) {
        const __m512bh low = (__m512bh)_mm512_load_ps(b), high = (__m512bh)_mm512_load_ps(b + 16);
#pragma GCC unroll 8
        for (int r = 0; r < kPanel; ++r) {
            const __m512bh word = (__m512bh)_mm512_set1_ps(a[r]);
            c[r][0] = _mm512_dpbf16_ps(c[r][0], low, word);
            c[r][1] = _mm512_dpbf16_ps(c[r][1], high, word);
        }
    }
}

PYDIFF_PAIRS void multiply_pairs(const Tile& t, int64_t first, int64_t last, float* products) {
    __m512 c[kPanel][2];
    for (int64_t j = first; j < last; j += kPanel, products += kPanel * kQueries) {
        outer(t.keys + j * t.words, t.q, t.words, c);
#pragma GCC unroll 8
        for (int r = 0; r < kPanel; ++r) {
            const __m512 bias = _mm512_set1_ps(t.bias[j + r]);
            _mm512_store_ps(products + r * kQueries, _mm512_add_ps(c[r][0], bias));
            _mm512_store_ps(products + r * kQueries + 16, _mm512_add_ps(c[r][1], bias));
        }
    }
}

// Rows (count, kQueries) to pairs (count / 2, kQueries) of rows that follow each other.
PYDIFF_PAIRS PYDIFF_INLINE void pair(const float* in, int64_t count, float* out) {
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 16; ++i) order[2 * i] = i, order[2 * i + 1] = 16 + i;
    const __m512i turn = _mm512_load_si512(order);
    for (int64_t j = 0; j < count; j += 2, in += 2 * kQueries, out += kQueries)
        for (int h = 0; h < kQueries; h += 16) {
            const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_load_ps(in + kQueries + h), _mm512_load_ps(in + h));
            _mm512_store_si512(out + h, _mm512_permutexvar_epi16(turn, (__m512i)both));
        }
}

PYDIFF_PAIRS void add_pairs(const Tile& t, int64_t first, int64_t last, const float* weights, const float* ratio,
                            float* out) {
    alignas(64) float words[(kTile + kPanel) / 2 * kQueries], ones[kQueries];
    std::fill(ones, ones + kQueries, 1.0f);
    __m512 c[kPanel][2];
    for (int64_t j = first, next; j < last; j = next, ratio = ones) {
        next = std::min(j + kTile + kPanel, last);
        pair(weights + (j - first) * kQueries, next - j, words);
        const __m512 low = _mm512_loadu_ps(ratio), high = _mm512_loadu_ps(ratio + 16);
        for (int64_t p = 0; p < t.panels; ++p) {
            outer(t.values + p * t.stride + j / 2 * kPanel, words, (next - j) / 2, c);
            float* at = out + p * kPanel * kQueries;
#pragma GCC unroll 8
            for (int r = 0; r < kPanel; ++r, at += kQueries) {
                _mm512_store_ps(at, _mm512_fmadd_ps(_mm512_load_ps(at), low, c[r][0]));
                _mm512_store_ps(at + 16, _mm512_fmadd_ps(_mm512_load_ps(at + 16), high, c[r][1]));
            }
        }
    }
}

}  // namespace pydiff

#else

namespace pydiff {

bool has_pairs() { return false; }
void multiply_pairs(const Tile&, int64_t, int64_t, float*) {}
void add_pairs(const Tile&, int64_t, int64_t, const float*, const float*, float*) {}

}  // namespace pydiff

#endif
