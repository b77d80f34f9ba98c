// Vectors of 16 numbers (AVX-512), for the kernels of whole networks: loads and stores of float32 and bfloat16, and the
// functions that activations need. bfloat16 is stored by AVX512-BF16, which only the kernels of that type are run with.
#pragma once

#include "simd.h"

#ifdef PYDIFF_HAS_CLONES
#include <immintrin.h>

#define PYDIFF_WIDE __attribute__((target("arch=x86-64-v4,avx512bf16")))
#define PYDIFF_WIDE_INLINE inline __attribute__((always_inline, target("arch=x86-64-v4,avx512bf16")))

namespace pydiff {

constexpr int kVector = 16;

// The first `count` of a vector; all of them from 16 on.
PYDIFF_WIDE_INLINE __mmask16 first_of(int64_t count) {
    return count >= kVector ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

PYDIFF_WIDE_INLINE __m512 load(const float* at, __mmask16 mask = 0xffff) { return _mm512_maskz_loadu_ps(mask, at); }
PYDIFF_WIDE_INLINE __m512 load(const uint16_t* at, __mmask16 mask = 0xffff) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16));
}
PYDIFF_WIDE_INLINE void store(float* at, __m512 x, __mmask16 mask = 0xffff) { _mm512_mask_storeu_ps(at, mask, x); }
PYDIFF_WIDE_INLINE void store(uint16_t* at, __m512 x, __mmask16 mask = 0xffff) {
    _mm256_mask_storeu_epi16(at, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

// exp(x), as exp_ of simd.h.
PYDIFF_WIDE_INLINE __m512 exp(__m512 x) {
    const __m512 low = _mm512_set1_ps(-87.0f), high = _mm512_set1_ps(88.0f);
    x = _mm512_min_ps(high, _mm512_max_ps(low, x));  // NaN passes through: it is the second operand
    const __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, k);
}

PYDIFF_WIDE_INLINE __m512 silu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(x, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// x (1 + erf(x / sqrt(2))) / 2 by erfc(|x| / sqrt(2)) = exp(-x^2 / 2) p(t), t = 1 / (1 + 0.39 |x| / sqrt(2)): p is a
// least-squares fit, within 1e-9.
PYDIFF_WIDE_INLINE __m512 gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), half = _mm512_mul_ps(_mm512_set1_ps(0.5f), x);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.27577164466f), one));
    __m512 p = _mm512_set1_ps(8.621848167e-2f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-4.903594726e-1f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(9.612939685e-1f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-7.056856606e-1f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(6.369574732e-1f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(4.317646780e-2f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(2.509550197e-1f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(2.174437233e-1f));
    const __m512 decay = exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), half), x));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(half, decay), _mm512_mul_ps(p, t));
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_sub_ps(x, tail), negative, tail);
}

enum class Act : int { none, silu, gelu, geglu };

PYDIFF_WIDE_INLINE __m512 activated(__m512 x, Act act) {
    return act == Act::silu ? silu(x) : act == Act::gelu ? gelu(x) : x;
}

}  // namespace pydiff
#endif
