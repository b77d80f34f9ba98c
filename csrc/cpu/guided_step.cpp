// One sampler step in one pass over memory, or two when dynamic thresholding must see the whole picture first.
#include <cmath>
#include <vector>

#include "../pydiff.h"
#include "simd.h"
#include "threshold.h"

namespace pydiff {

// m <= kBlock elements of picture b from `start` on: D_raw.
PYDIFF_CLONES void estimate(const GuidedStep& s, int64_t b, int64_t start, int64_t m, float scale,
                            float* __restrict raw) {
    const float* __restrict x = s.x + b * s.n + start;
    const float* __restrict prediction = s.predictions + b * s.stride + start;
    for (int64_t i = 0; i < m; ++i) raw[i] = s.weights[0] * prediction[i];
    for (int r = 1; r < s.branches; ++r) {
        const float weight = s.weights[r];
        prediction += s.batch * s.stride;
        for (int64_t i = 0; i < m; ++i) raw[i] += weight * prediction[i];
    }
    if (s.rescale > 0)
        for (int64_t i = 0; i < m; ++i) raw[i] *= scale;
    const float alpha = s.alpha, sigma = s.sigma;
    if (s.prediction == Prediction::epsilon)
        for (int64_t i = 0; i < m; ++i) raw[i] = (x[i] - sigma * raw[i]) / alpha;
    if (s.prediction == Prediction::v_prediction)
        for (int64_t i = 0; i < m; ++i) raw[i] = alpha * x[i] - sigma * raw[i];
}

// D from D_raw, and the step row. `range` is s of dynamic thresholding.
PYDIFF_CLONES void finish(const GuidedStep& s, int64_t b, int64_t start, int64_t m, float range,
                          const float* __restrict raw) {
    const int64_t at = b * s.n + start;
    const float* __restrict x = s.x + at;
    float* __restrict denoised = s.denoised + at;
    float* __restrict out = s.x_next + at;
    const float top = s.limit == Limit::dynamic ? range : s.max_value;
    const float c_x = s.c_x, c_denoised = s.c_denoised, c_raw = s.c_raw;
    if (s.limit == Limit::none) {
        std::memcpy(denoised, raw, m * sizeof *raw);
    } else {
        for (int64_t i = 0; i < m; ++i) {
            const float d = raw[i] < -top ? -top : raw[i];
            denoised[i] = d > top ? top : d;
        }
    }
    if (s.limit == Limit::dynamic && !(range == 1)) {
        for (int64_t i = 0; i < m; ++i) denoised[i] /= range;
        if (std::isnan(range)) std::fill(denoised, denoised + m, range);
    }
    for (int64_t i = 0; i < m; ++i) out[i] = c_x * x[i] + c_denoised * denoised[i];
    if (c_raw != 0)
        for (int64_t i = 0; i < m; ++i) out[i] += c_raw * raw[i];
    if (s.previous) {
        const float* __restrict previous = s.previous + at;
        const float c = s.c_previous;
        for (int64_t i = 0; i < m; ++i) out[i] += c * previous[i];
    }
    if (!s.noise) return;
    const float* __restrict noise = s.noise + at;
    const float c = s.c_noise;
    if (s.learned) {
        const float* __restrict v = s.predictions + b * s.stride + s.n + start;
        const float log_std = s.log_std, slope = s.log_std_slope;
        for (int64_t i = 0; i < m; ++i) out[i] += c * (noise[i] * exp_(log_std + slope * v[i]));
    } else {
        for (int64_t i = 0; i < m; ++i) out[i] += c * noise[i];
    }
}

// What is known, over the x' that finish() left in the first-level cache. A mask of 0 or 1 takes its side's bits.
PYDIFF_CLONES void put_back(const GuidedStep& s, int64_t b, int64_t start, int64_t m) {
    const Paste& p = s.paste;
    const float c_x0 = p.c_x0, c_noise = p.c_noise;
    float known[kBlock];
    const float* __restrict x0 = p.x0 + b * p.x0_picture + start;
    float* __restrict out = s.x_next + b * s.n + start;
    if (p.noise) {
        const float* __restrict noise = p.noise + b * s.n + start;
        for (int64_t i = 0; i < m; ++i) known[i] = c_x0 * x0[i] + c_noise * noise[i];
    } else {
        for (int64_t i = 0; i < m; ++i) known[i] = c_x0 * x0[i];
    }
    for (int64_t i = 0, run; i < m; i += run) {  // the mask starts again with every channel
        const int64_t pixel = (start + i) % p.plane;
        const float* __restrict mask = p.mask + b * p.mask_picture + pixel;
        run = std::min(m - i, p.plane - pixel);
        for (int64_t j = 0; j < run; ++j) {
            const float keep = mask[j], made = out[i + j], other = known[i + j];
            const float mixed = keep * made + (1 - keep) * other;
            out[i + j] = keep == 1 ? made : keep == 0 ? other : mixed;
        }
    }
}

// Sums of (y - y0) and (y - y0)^2 for y = branch 0 and y = guided, y0 their first element of the picture.
struct Sums {
    double own = 0, own_squared = 0, wide = 0, wide_squared = 0;

    void add(const Sums& other) {
        own += other.own, own_squared += other.own_squared;
        wide += other.wide, wide_squared += other.wide_squared;
    }
};

// m <= kBlock elements of picture b from `start` on.
PYDIFF_CLONES Sums sums(const GuidedStep& s, int64_t b, int64_t start, int64_t m) {
    const float* first = s.predictions + b * s.stride;
    const int64_t next_branch = s.batch * s.stride;
    const double own0 = first[0];
    double wide0 = 0, own[kBlock], wide[kBlock], lanes[4][kLanes] = {};
    for (int r = 0; r < s.branches; ++r) wide0 += double(s.weights[r]) * first[r * next_branch];
    for (int64_t i = 0; i < m; ++i) own[i] = first[start + i] - own0;
    for (int64_t i = 0; i < m; ++i) wide[i] = -wide0;
    for (int r = 0; r < s.branches; ++r) {
        const float* __restrict prediction = first + r * next_branch + start;
        const double weight = s.weights[r];
        for (int64_t i = 0; i < m; ++i) wide[i] = fma_(weight, double(prediction[i]), wide[i]);
    }
    for (int64_t i = m; i % kLanes != 0; ++i) own[i] = wide[i] = 0;
    for (int64_t i = 0; i < m; i += kLanes) {
        for (int j = 0; j < kLanes; ++j) lanes[0][j] += own[i + j];
        for (int j = 0; j < kLanes; ++j) lanes[1][j] = fma_(own[i + j], own[i + j], lanes[1][j]);
        for (int j = 0; j < kLanes; ++j) lanes[2][j] += wide[i + j];
        for (int j = 0; j < kLanes; ++j) lanes[3][j] = fma_(wide[i + j], wide[i + j], lanes[3][j]);
    }
    double total[4] = {};
    for (int k = 0; k < 4; ++k)
        for (double lane : lanes[k]) total[k] += lane;
    return {total[0], total[1], total[2], total[3]};
}

static int64_t chunks_of(const GuidedStep& s) { return (s.n + kChunk - 1) / kChunk; }

// phi std(branch 0) / std(guided) + 1 - phi
static float rescaling(const GuidedStep& s, int64_t b, int threads) {
    const int64_t chunks = chunks_of(s);
    std::vector<Sums> parts(chunks);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c)
        for (int64_t i = c * kChunk; i < std::min((c + 1) * kChunk, s.n); i += kBlock)
            parts[c].add(sums(s, b, i, std::min(kBlock, s.n - i)));
    Sums all;
    for (const Sums& part : parts) all.add(part);
    const double n = static_cast<double>(s.n);
    const double own = std::sqrt((all.own_squared - all.own * all.own / n) / (n - 1));
    const double wide = std::sqrt((all.wide_squared - all.wide * all.wide / n) / (n - 1));
    return static_cast<float>(s.rescale * own / wide + (1 - s.rescale));
}

// Estimate and finish in one pass; returns how many of D_raw are not finite when that decides the range.
static int64_t once(const GuidedStep& s, int64_t b, int64_t c, float scale) {
    float raw[kBlock];
    int64_t bad = 0;
    for (int64_t i = c * kChunk; i < std::min((c + 1) * kChunk, s.n); i += kBlock) {
        const int64_t m = std::min(kBlock, s.n - i);
        estimate(s, b, i, m, scale, raw);
        if (s.limit == Limit::dynamic) bad += count(raw, m, s.max_value).bad;
        finish(s, b, i, m, 1, raw);
        if (s.paste.mask) put_back(s, b, i, m);
    }
    return bad;
}

static Count first_pass(const GuidedStep& s, int64_t b, int64_t c, float scale) {
    Count total;
    for (int64_t i = c * kChunk; i < std::min((c + 1) * kChunk, s.n); i += kBlock) {
        const int64_t m = std::min(kBlock, s.n - i);
        float* raw = s.denoised + b * s.n + i;
        estimate(s, b, i, m, scale, raw);
        const Count part = count(raw, m, s.max_value);
        total.low += part.low, total.high += part.high, total.bad += part.bad;
    }
    return total;
}

static void second_pass(const GuidedStep& s, int64_t b, int64_t c, float range) {
    float raw[kBlock];
    for (int64_t i = c * kChunk; i < std::min((c + 1) * kChunk, s.n); i += kBlock) {
        const int64_t m = std::min(kBlock, s.n - i);
        std::memcpy(raw, s.denoised + b * s.n + i, m * sizeof *raw);
        finish(s, b, i, m, range, raw);
        if (s.paste.mask) put_back(s, b, i, m);
    }
}

static void one_picture(const GuidedStep& s, int64_t b, int threads) {
    const int64_t chunks = chunks_of(s);
    const float scale = s.rescale > 0 ? rescaling(s, b, threads) : 1;
    if (s.limit != Limit::dynamic || s.max_value == 1) {  // the range is 1 unless a value is not finite
        int64_t bad = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(+ : bad)
        for (int64_t c = 0; c < chunks; ++c) bad += once(s, b, c, scale);
        if (bad == 0) return;
    }
    std::vector<Count> counts(chunks);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) counts[c] = first_pass(s, b, c, scale);
    const float range = dynamic_range(s.denoised + b * s.n, s.n, counts, s.percentile, s.max_value, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) second_pass(s, b, c, range);
}

void guided_step(const GuidedStep& s, int threads) {
    const Threads split(s.batch, s.n, threads, 16 * kChunk);
    split.over(s.batch, [&](int64_t b) { one_picture(s, b, split.inner); });
}

}  // namespace pydiff
