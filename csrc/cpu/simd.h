// What the CPU kernels share: one function compiled for several instruction sets, threads, and exp.
//
// Loops are written plainly and vectorised by the compiler. Multiply-adds are fused where fma_ says so and nowhere else
// (-ffp-contract=off), and sums have a fixed number of partial sums: every lane, tail, thread count and instruction set
// rounds alike, so a picture is the same alone, in a batch, and on another machine (bfloat16 attention is the same on
// another machine only where both have, or lack, products of pairs: attention_pairs.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define PYDIFF_HAS_CLONES
#define PYDIFF_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PYDIFF_CLONES
#endif

// `omp simd` makes vectors of a loop around another one, which is how attention is written. Other compilers do not.
#if defined(__GNUC__) && !defined(__clang__) && defined(_OPENMP)
#define PYDIFF_OUTER_LOOPS
#endif

#if defined(__GNUC__)
#define PYDIFF_INLINE inline __attribute__((always_inline))
#else
#define PYDIFF_INLINE inline
#endif

namespace pydiff {

constexpr int64_t kBlock = 1024;         // floats that stay in the first-level cache between two loops
constexpr int64_t kChunk = 16 * kBlock;  // floats that one thread takes at a time
constexpr int kLanes = 8;

PYDIFF_INLINE float fma_(float a, float b, float c) { return std::fma(a, b, c); }
PYDIFF_INLINE double fma_(double a, double b, double c) { return std::fma(a, b, c); }

PYDIFF_INLINE int32_t bits(float value) {
    int32_t raw;
    std::memcpy(&raw, &value, sizeof raw);
    return raw;
}

PYDIFF_INLINE float real(int32_t raw) {
    float value;
    std::memcpy(&value, &raw, sizeof value);
    return value;
}

// A bfloat16 as a float, and the bfloat16 nearest to a float (ties to even).
PYDIFF_INLINE float widened(uint16_t value) { return real(static_cast<int32_t>(uint32_t{value} << 16)); }
PYDIFF_INLINE uint16_t nearest(float value) {
    const uint32_t raw = static_cast<uint32_t>(bits(value)), even = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((raw & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : even);
}

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the low bits of x + kRound hold x rounded to an integer

// exp(x - k log(2)), |x - k log(2)| <= log(2) / 2: Taylor to degree 7.
PYDIFF_INLINE float exp_remainder(float x, float k) {
    const float r = fma_(k, 2.12194440e-4f, fma_(k, -0.693359375f, x));
    float p = 1.0f / 5040;
    p = fma_(p, r, 1.0f / 720);
    p = fma_(p, r, 1.0f / 120);
    p = fma_(p, r, 1.0f / 24);
    p = fma_(p, r, 1.0f / 6);
    p = fma_(p, r, 0.5f);
    return fma_(p * r, r, r) + 1.0f;
}

// exp(x) = 2^k exp(r). k is clamped as an integer, so that neither a branch nor a subnormal number slows a vector down:
// exp(-88) and below become about 1e-38, exp(88.7) and above about 2e38.
PYDIFF_INLINE float exp_(float x) {
    const float shifted = fma_(x, 1.44269504f, kRound);
    const float p = exp_remainder(x, shifted - kRound);
    const int32_t exponent = std::min(std::max(bits(shifted) - bits(kRound), -125), 127);
    return p * real((exponent + 127) << 23);
}

// 2^x for x <= 0: exactly 0 below -125, and NaN for NaN. The polynomial is the best of its degree, and errs by 9e-8.
PYDIFF_INLINE float decay(float x) {
    const float near = x < -125.0f ? -125.0f : x;
    const float shifted = near + kRound;
    const float r = near - (shifted - kRound);
    float p = 1.326472731e-3f;
    p = fma_(p, r, 9.671512991e-3f);
    p = fma_(p, r, 5.550733581e-2f);
    p = fma_(p, r, 2.402224243e-1f);
    p = fma_(p, r, 6.931470037e-1f);
    p = fma_(p, r, 1.0f);
    const uint32_t scaled = static_cast<uint32_t>(bits(p)) + (static_cast<uint32_t>(bits(shifted)) << 23);  // p 2^k
    return x < -125.0f ? 0.0f : real(static_cast<int32_t>(scaled));
}

// Pictures on different threads when there are enough of them, else the chunks of each picture on different threads.
// Below `serial` elements, starting threads costs more than they save.
struct Threads {
    int outer, inner;
    Threads(int64_t pictures, int64_t n, int threads, int64_t serial) {
        threads = pictures * n < serial ? 1 : std::max(threads, 1);
        outer = pictures >= threads ? threads : 1;
        inner = outer > 1 ? 1 : threads;
    }

    // work(i) for i in [0, count). No parallel region around a single thread: the regions inside it would be nested
    // ones, for which the runtime starts new threads every time.
    template <typename Work>
    void over(int64_t count, const Work& work) const {
        if (outer == 1) {
            for (int64_t i = 0; i < count; ++i) work(i);
            return;
        }
#pragma omp parallel for num_threads(outer)
        for (int64_t i = 0; i < count; ++i) work(i);
    }
};

}  // namespace pydiff
