// torch's CPU generator: a Mersenne twister (mt19937), and Box and Muller's pairs of normal numbers.
//
// Draws of 16 numbers and more take all their uniform numbers first, and pair j with j + 8 in every block of 16; where
// n is no multiple of 16, the last 16 numbers are drawn anew. Shorter draws make one pair after another in double.
#include <algorithm>
#include <cmath>

#include "../pydiff.h"
#include "simd.h"

namespace pydiff {

constexpr double kTwoPi = 6.283185307179586;
constexpr int kWide = 16;

Generator::Generator(uint64_t seed) {
    state_[0] = static_cast<uint32_t>(seed);  // the low 32 bits, as torch takes them
    for (uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

// The linear map of the highest bit of u and the others of v.
PYDIFF_INLINE uint32_t twisted(uint32_t u, uint32_t v) {
    return (((u & 0x80000000u) | (v & 0x7fffffffu)) >> 1) ^ (-(v & 1u) & 0x9908b0dfu);
}

// The next 624 words of the state, and the words they give.
PYDIFF_CLONES void advance(uint32_t* __restrict state, uint32_t* __restrict words) {
    constexpr int n = 624, m = 397;
    for (int i = 0; i < n - m; ++i) state[i] = state[i + m] ^ twisted(state[i], state[i + 1]);
    for (int i = n - m; i < n - 1; ++i) state[i] = state[i + m - n] ^ twisted(state[i], state[i + 1]);
    state[n - 1] = state[m - 1] ^ twisted(state[n - 1], state[0]);
    for (int i = 0; i < n; ++i) {
        uint32_t y = state[i];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        words[i] = y ^ (y >> 18);
    }
}

void Generator::draw(uint32_t* out, int64_t n) {
    while (n > 0) {
        if (used_ == kWords) advance(state_, words_), used_ = 0;
        const int taken = static_cast<int>(std::min<int64_t>(n, kWords - used_));
        std::copy_n(words_ + used_, taken, out);
        used_ += taken, out += taken, n -= taken;
    }
}

// Uniform in [0, 1): 24 bits of a word, or 53 bits of two.
PYDIFF_INLINE float uniform(uint32_t word) { return static_cast<float>(word & 0xffffffu) * 0x1p-24f; }

PYDIFF_INLINE double uniform(uint32_t high, uint32_t low) {
    const uint64_t word = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<double>(word & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
}

// log of a normal number: 2^e (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1); log(1 + f) = f - f^2 / 2 + f^3 p(f).
PYDIFF_INLINE float log_(float x) {
    const int32_t e = (bits(x) - bits(0.70710678f)) >> 23;
    const float f = real(bits(x) - e * (1 << 23)) - 1.0f, exponent = static_cast<float>(e);
    float p = -7.634488188e-2f;
    p = fma_(p, f, 1.276157370e-1f);
    p = fma_(p, f, -1.316018398e-1f);
    p = fma_(p, f, 1.420175856e-1f);
    p = fma_(p, f, -1.662335724e-1f);
    p = fma_(p, f, 2.000122685e-1f);
    p = fma_(p, f, -2.500082104e-1f);
    p = fma_(p, f, 3.333333171e-1f);
    const float square = f * f;
    p = fma_(p, square * f, -1.90465421e-9f * exponent);  // log 2 = 0.693147182 - 1.90465421e-9
    return fma_(exponent, 0.693147182f, fma_(-0.5f, square, p) + f);
}

// Cosine and sine of an angle in [0, 2 pi]: quadrant k and the rest r in [-pi / 4, pi / 4].
PYDIFF_INLINE void circle(float angle, float& cosine, float& sine) {
    const float shifted = fma_(angle, 0.636619772f, kRound);
    const float k = shifted - kRound;
    const float r = fma_(k, 4.37113883e-8f, fma_(k, -1.57079637f, angle)), z = r * r;
    const float s = fma_(fma_(fma_(-1.951665563e-4f, z, 8.332173542e-3f), z, -1.666665487e-1f) * z, r, r);
    float c = fma_(fma_(2.443772978e-5f, z, -1.388736145e-3f), z, 4.166664675e-2f);
    c = fma_(c * z, z, fma_(-0.5f, z, 1.0f));
    const int32_t quadrant = bits(shifted);
    const bool odd = quadrant & 1;
    cosine = real(bits(odd ? s : c) ^ (((quadrant + 1) & 2) << 30));
    sine = real(bits(odd ? c : s) ^ ((quadrant & 2) << 30));
}

PYDIFF_CLONES void pairs(const uint32_t* __restrict words, float* __restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i += kWide)
        for (int64_t j = i; j < i + kWide / 2; ++j) {
            const float radius = std::sqrt(-2.0f * log_(1.0f - uniform(words[j])));
            float cosine, sine;
            circle(static_cast<float>(kTwoPi) * uniform(words[j + kWide / 2]), cosine, sine);
            out[j] = radius * cosine;
            out[j + kWide / 2] = radius * sine;
        }
}

static void pairs(const uint32_t* words, double* out, int64_t n) {
    for (int64_t i = 0; i < n; i += kWide)
        for (int64_t j = i; j < i + kWide / 2; ++j) {
            const uint32_t *first = words + 2 * j, *second = first + kWide;
            const double radius = std::sqrt(-2 * std::log(1 - uniform(first[0], first[1])));
            const double angle = kTwoPi * uniform(second[0], second[1]);
            out[j] = radius * std::cos(angle);
            out[j + kWide / 2] = radius * std::sin(angle);
        }
}

// One number of a pair whose second number waits for the next call.
double Generator::one() {
    if (has_spare_) return has_spare_ = false, spare_;
    uint32_t words[4];
    draw(words, 4);
    const double angle = kTwoPi * uniform(words[0], words[1]);
    const double radius = std::sqrt(-2 * std::log1p(-uniform(words[2], words[3])));
    spare_ = radius * std::sin(angle), has_spare_ = true;
    return radius * std::cos(angle);
}

template <typename Real>
void Generator::fill(Real* out, int64_t n) {
    if (n < kWide) {
        for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Real>(one());
        return;
    }
    constexpr int64_t per = sizeof(Real) / sizeof(uint32_t);  // words for a number
    uint32_t words[kBlock * per];
    for (int64_t i = 0; i < n; i += kBlock) {
        const int64_t m = std::min(kBlock, n - i);
        draw(words, m * per);
        pairs(words, out + i, m / kWide * kWide);
    }
    if (n % kWide) {
        draw(words, kWide * per);
        pairs(words, out + n - kWide, kWide);
    }
}

void Generator::normal(float* out, int64_t n) { fill(out, n); }
void Generator::normal(double* out, int64_t n) { fill(out, n); }

}  // namespace pydiff
