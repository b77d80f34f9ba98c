// The range of dynamic thresholding by selection: counting usually decides, else a radix search over the float bits.
#include "threshold.h"

#include <cmath>
#include <limits>
#include <memory>

#include "../pydiff.h"
#include "simd.h"

namespace pydiff {

constexpr int32_t kMagnitude = 0x7fffffff, kOne = 0x3f800000, kInfinity = 0x7f800000;  // bits order as |values| do
constexpr int kBins = 2048;

PYDIFF_CLONES Count count(const float* values, int64_t m, float max_value) {
    const int32_t high = bits(max_value);
    Count total;
    for (int64_t start = 0; start < m; start += kBlock) {
        const int64_t stop = std::min(start + kBlock, m);
        int32_t at_most_one = 0, below = 0, bad = 0;
        for (int64_t i = start; i < stop; ++i) {
            const int32_t u = bits(values[i]) & kMagnitude;
            at_most_one += u <= kOne;
            below += u < high;
            bad += u >= kInfinity;
        }
        total.low += at_most_one;
        total.high += below;
        total.bad += bad;
    }
    return total;
}

// Copies the bits of |values| in [low, high) to `kept`, which has room for them; returns how many.
static int64_t gather(const float* values, int64_t m, int32_t low, int32_t high, int32_t* kept) {
    int32_t some[kBlock + 1];
    int64_t total = 0;
    for (int64_t start = 0; start < m; start += kBlock) {
        int64_t found = 0;
        for (int64_t i = start; i < std::min(start + kBlock, m); ++i) {
            const int32_t u = bits(values[i]) & kMagnitude;
            some[found] = u;
            found += (u >= low) & (u < high);
        }
        std::memcpy(kept + total, some, found * sizeof *some);
        total += found;
    }
    return total;
}

struct Neighbours {
    int32_t at, next;  // order statistics `rank` and `rank + 1`
};

// Narrows [low, high) to the bin that holds `rank` until one value is left; overwrites `kept`.
static Neighbours select(int32_t* kept, int64_t m, int64_t rank, int64_t low, int64_t high) {
    int32_t beyond = kMagnitude;
    while (high - low > 1) {
        int shift = 0;
        while ((high - low - 1) >> shift >= kBins) ++shift;
        int64_t bins[kBins] = {}, bin = 0;
        for (int64_t i = 0; i < m; ++i) ++bins[(kept[i] - low) >> shift];
        for (; rank >= bins[bin]; ++bin) rank -= bins[bin];
        low += bin << shift;
        high = std::min(high, low + (int64_t{1} << shift));
        int64_t left = 0;
        for (int64_t i = 0; i < m; ++i) {
            const int32_t u = kept[i];
            beyond = std::min(beyond, u >= high ? u : kMagnitude);
            kept[left] = u;
            left += (u >= low) & (u < high);
        }
        m = left;
    }
    return {static_cast<int32_t>(low), rank + 1 < m ? static_cast<int32_t>(low) : beyond};
}

static bool has_nan(const float* values, int64_t n) {
    return std::any_of(values, values + n, [](float value) { return std::isnan(value); });
}

float dynamic_range(const float* values, int64_t n, const std::vector<Count>& counts, double percentile,
                    float max_value, int threads) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    Count all;
    for (const Count& c : counts) all.low += c.low, all.high += c.high, all.bad += c.bad;
    const double rank = percentile * static_cast<double>(n - 1);
    const int64_t at = static_cast<int64_t>(rank), next = static_cast<int64_t>(std::ceil(rank));
    if (all.bad && (at >= n - all.bad || has_nan(values, n))) return nan;  // torch: inf - inf, or NaN in the picture
    if (next < all.low) return 1;
    if (at >= all.high) return max_value;

    const bool inside = at >= all.low && next < all.high;
    const int32_t low = inside ? kOne + 1 : 0, high = inside ? bits(max_value) : kInfinity + 1;
    const int64_t chunks = static_cast<int64_t>(counts.size());
    std::vector<int64_t> offsets(chunks + 1);
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t all_of_it = std::min(kChunk, n - c * kChunk);
        offsets[c + 1] = offsets[c] + (inside ? counts[c].high - counts[c].low : all_of_it);
    }
    const std::unique_ptr<int32_t[]> kept(new int32_t[offsets[chunks]]);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c)
        gather(values + c * kChunk, std::min(kChunk, n - c * kChunk), low, high, kept.get() + offsets[c]);

    const Neighbours found = select(kept.get(), offsets[chunks], at - (inside ? all.low : 0), low, high);
    double s = real(found.at);
    if (next > at) s += (real(found.next) - s) * (rank - static_cast<double>(at));
    return static_cast<float>(std::min(std::max(s, 1.0), static_cast<double>(max_value)));
}

float dynamic_range(const float* values, int64_t n, double percentile, float max_value, int threads) {
    std::vector<Count> counts((n + kChunk - 1) / kChunk);
    for (int64_t c = 0; c < static_cast<int64_t>(counts.size()); ++c)
        counts[c] = count(values + c * kChunk, std::min(kChunk, n - c * kChunk), max_value);
    return dynamic_range(values, n, counts, percentile, max_value, threads);
}

}  // namespace pydiff
