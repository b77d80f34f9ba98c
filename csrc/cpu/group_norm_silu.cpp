// GroupNorm, scale and shift, SiLU: one pass for the statistics, one that applies everything.
#include <cmath>
#include <vector>

#include "../pydiff.h"
#include "simd.h"

namespace pydiff {

// Sums of (x - origin) and (x - origin)^2.
struct Moments {
    double sum = 0, squared = 0;
};

// h = (x - centre) gain + offset
struct Affine {
    float centre, gain, offset;
};

static Affine affine(const GroupNormSilu& g, int64_t b, int64_t c, double mean, double inverse) {
    const double wide = g.scale ? 1.0 + g.scale[b * g.channels + c] : 1.0;
    const double gain = inverse * (g.weight ? g.weight[c] : 1.0) * wide;
    const double offset = (g.bias ? g.bias[c] : 0.0) * wide + (g.shift ? g.shift[b * g.channels + c] : 0.0);
    const float centre = static_cast<float>(mean);
    return {centre, static_cast<float>(gain), static_cast<float>(offset - (mean - centre) * gain)};
}

PYDIFF_CLONES Moments moments(const float* x, int64_t m, double origin) {
    double sum[kLanes] = {}, squared[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= m; i += kLanes) {
        double d[kLanes];
        for (int j = 0; j < kLanes; ++j) d[j] = x[i + j] - origin;
        for (int j = 0; j < kLanes; ++j) sum[j] += d[j];
        for (int j = 0; j < kLanes; ++j) squared[j] = fma_(d[j], d[j], squared[j]);
    }
    for (int j = 0; i < m; ++i, ++j) {
        const double d = x[i] - origin;
        sum[j] += d;
        squared[j] = fma_(d, d, squared[j]);
    }
    Moments total;
    for (int j = 0; j < kLanes; ++j) total.sum += sum[j], total.squared += squared[j];
    return total;
}

PYDIFF_CLONES void apply(const float* __restrict x, float* __restrict out, int64_t m, Affine a, bool silu) {
    if (silu) {
        for (int64_t i = 0; i < m; ++i) {
            const float h = fma_(x[i] - a.centre, a.gain, a.offset);
            out[i] = h / (1.0f + exp_(-h));
        }
    } else {
        for (int64_t i = 0; i < m; ++i) out[i] = fma_(x[i] - a.centre, a.gain, a.offset);
    }
}

static void one_group(const GroupNormSilu& g, int64_t b, int64_t group, int threads) {
    const int64_t width = g.channels / g.groups, m = width * g.n, chunks = (m + kChunk - 1) / kChunk;
    const int64_t at = (b * g.channels + group * width) * g.n;
    const float* x = g.x + at;
    std::vector<Moments> parts(chunks);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) parts[c] = moments(x + c * kChunk, std::min(kChunk, m - c * kChunk), x[0]);
    Moments all;
    for (const Moments& part : parts) all.sum += part.sum, all.squared += part.squared;
    const double mean = all.sum / m, variance = std::max(all.squared / m - mean * mean, 0.0);
    const double inverse = 1 / std::sqrt(variance + g.eps);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < width; ++c) {
        const Affine a = affine(g, b, group * width + c, mean + x[0], inverse);
        apply(x + c * g.n, g.out + at + c * g.n, g.n, a, g.silu);
    }
}

// Adds rows of (x - x of the picture's first row) and their squares to sums (2, C), four rows at a time.
PYDIFF_CLONES void add_rows(const float* __restrict x, const float* __restrict origin, int64_t rows, int64_t channels,
                            double* __restrict sums) {
    double* __restrict squared = sums + channels;
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float* __restrict row = x + i * channels;
        for (int64_t c = 0; c < channels; ++c) {
            const double o = origin[c], d0 = row[c] - o, d1 = row[c + channels] - o;
            const double d2 = row[c + 2 * channels] - o, d3 = row[c + 3 * channels] - o;
            sums[c] += (d0 + d1) + (d2 + d3);
            squared[c] = fma_(d0, d0, fma_(d1, d1, fma_(d2, d2, fma_(d3, d3, squared[c]))));
        }
    }
    for (; i < rows; ++i) {
        for (int64_t c = 0; c < channels; ++c) {
            const double d = double(x[i * channels + c]) - origin[c];
            sums[c] += d;
            squared[c] = fma_(d, d, squared[c]);
        }
    }
}

// affines: centre (C), gain (C), offset (C).
PYDIFF_CLONES void apply_rows(const float* __restrict x, float* __restrict out, int64_t rows, int64_t channels,
                              const float* __restrict affines, bool silu) {
    const float* __restrict centre = affines;
    const float* __restrict gain = affines + channels;
    const float* __restrict offset = affines + 2 * channels;
    for (int64_t i = 0; i < rows; ++i, x += channels, out += channels) {
        if (silu) {
            for (int64_t c = 0; c < channels; ++c) {
                const float h = fma_(x[c] - centre[c], gain[c], offset[c]);
                out[c] = h / (1.0f + exp_(-h));
            }
        } else {
            for (int64_t c = 0; c < channels; ++c) out[c] = fma_(x[c] - centre[c], gain[c], offset[c]);
        }
    }
}

// Per channel sums (2, C) around origin (C) become the picture's affines (3, C).
static void normalise(const GroupNormSilu& g, int64_t b, const double* sums, const float* origin, float* affines) {
    const int64_t width = g.channels / g.groups;
    for (int64_t first = 0; first < g.channels; first += width) {
        double mean = 0, squared = 0;
        for (int64_t c = first; c < first + width; ++c) mean += (origin[c] + sums[c] / g.n) / width;
        for (int64_t c = first; c < first + width; ++c) {
            const double own = sums[c] / g.n, apart = origin[c] + own - mean;
            squared += std::max(sums[g.channels + c] / g.n - own * own, 0.0) + apart * apart;
        }
        const double inverse = 1 / std::sqrt(squared / width + g.eps);
        for (int64_t c = first; c < first + width; ++c) {
            const Affine a = affine(g, b, c, mean, inverse);
            affines[c] = a.centre, affines[g.channels + c] = a.gain, affines[2 * g.channels + c] = a.offset;
        }
    }
}

static void one_picture_last(const GroupNormSilu& g, int64_t b, int threads) {
    const int64_t at = b * g.channels * g.n, step = std::max<int64_t>(kChunk / g.channels, 1);
    const int64_t chunks = (g.n + step - 1) / step;
    const float* x = g.x + at;
    std::vector<double> parts(chunks * 2 * g.channels);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t rows = std::min(step, g.n - c * step);
        add_rows(x + c * step * g.channels, x, rows, g.channels, parts.data() + c * 2 * g.channels);
    }
    for (int64_t c = 1; c < chunks; ++c)
        for (int64_t i = 0; i < 2 * g.channels; ++i) parts[i] += parts[c * 2 * g.channels + i];
    std::vector<float> affines(3 * g.channels);
    normalise(g, b, parts.data(), x, affines.data());
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t from = c * step * g.channels, rows = std::min(step, g.n - c * step);
        apply_rows(x + from, g.out + at + from, rows, g.channels, affines.data(), g.silu);
    }
}

static void one_unit(const GroupNormSilu& g, int64_t unit, int threads) {
    if (g.channels_last) one_picture_last(g, unit, threads);
    else one_group(g, unit / g.groups, unit % g.groups, threads);
}

void group_norm_silu(const GroupNormSilu& g, int threads) {
    const int64_t units = g.channels_last ? g.batch : g.batch * g.groups;
    const Threads split(units, g.batch * g.channels * g.n / units, threads, 4 * kChunk);
    split.over(units, [&](int64_t unit) { one_unit(g, unit, split.inner); });
}

}  // namespace pydiff
