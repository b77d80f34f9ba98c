#include "attention_tile.h"

#include <limits>

#include "simd.h"

namespace pydiff {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// store(r, i, c[r][i]), c[r][i] = sum over x of a[x][r] b[x][i]: a (length, kPanel), b (length, kQueries), length > 0.
// The loop over i becomes vectors; a test before the first turn of the inner loop would keep the compiler from it.
template <typename Store>
PYDIFF_INLINE void outer(const float* a, const float* b, int64_t length, const Store& store) {
#pragma omp simd
    for (int i = 0; i < kQueries; ++i) {
        float c[kPanel];
#pragma GCC unroll 8
        for (int r = 0; r < kPanel; ++r) c[r] = 0;
        int64_t x = 0;
        do {
            const float y = b[x * kQueries + i];
#pragma GCC unroll 8
            for (int r = 0; r < kPanel; ++r) c[r] = fma_(a[x * kPanel + r], y, c[r]);
        } while (++x < length);
#pragma GCC unroll 8
        for (int r = 0; r < kPanel; ++r) store(r, i, c[r]);
    }
}

// exp(top - above): 0 where no key is seen yet.
PYDIFF_INLINE float ratio(float top, float above) { return above == -kInfinity ? 0.0f : decay(top - above); }

// Scores (count, kQueries) become exp(score - top), top the largest of them and of the earlier ones.
PYDIFF_INLINE void soften(float* scores, int64_t count, Softmax& s) {
    float top[kQueries], origin[kQueries], sum[kQueries] = {};
#pragma omp simd
    for (int i = 0; i < kQueries; ++i) {
        float high = s.top[i];
        int64_t j = 0;
        do high = scores[j * kQueries + i] > high ? scores[j * kQueries + i] : high;
        while (++j < count);
        top[i] = high;
    }
    for (int i = 0; i < kQueries; ++i) {
        s.ratio[i] = ratio(s.top[i], top[i]);
        s.top[i] = top[i];
        origin[i] = top[i] == -kInfinity ? 0.0f : top[i];
    }
    for (int64_t j = 0; j < count; ++j, scores += kQueries) {
        for (int i = 0; i < kQueries; ++i) {
            const float weight = decay(scores[i] - origin[i]);
            scores[i] = weight;
            sum[i] += weight;
        }
    }
    for (int i = 0; i < kQueries; ++i) s.sum[i] = fma_(s.sum[i], s.ratio[i], sum[i]);
}

PYDIFF_CLONES float* add_tile(const Tile& t, int64_t first, int64_t last, Softmax& s, float* weights, float* out) {
    const float scale = t.scale;
    const int64_t start = first / kPanel * kPanel, count = last - first;
    for (int64_t j = start; j < last; j += kPanel) {
        float* scores = weights + (j - start) * kQueries;
        const float* bias = t.bias + j;
        outer(t.keys + j * t.dim, t.q, t.dim,
              [&](int r, int i, float c) { scores[r * kQueries + i] = fma_(c, scale, bias[r]); });
    }
    weights += (first - start) * kQueries;
    soften(weights, count, s);
    const float* ratio = s.ratio;
    for (int64_t p = 0; p < t.panels; ++p, out += kPanel * kQueries)
        outer(t.values + p * t.stride + first * kPanel, weights, count, [&](int r, int i, float c) {
            out[r * kQueries + i] = fma_(out[r * kQueries + i], ratio[i], c);
        });
    return weights;
}

void start(Softmax& s, float* out, int64_t size) {
    std::fill(s.top, s.top + kQueries, -kInfinity);
    std::fill(s.sum, s.sum + kQueries, 0.0f);
    std::fill(out, out + size, 0.0f);
}

PYDIFF_CLONES void shares(const float* top, const Softmax& s, float parts, float* share) {
    for (int i = 0; i < kQueries; ++i) {
        const float all = s.sum[i] * parts;
        share[i] = ratio(top[i], s.top[i]) / (all == 0 ? 1.0f : all);
    }
}

PYDIFF_CLONES Softmax join(const Softmax& a, const Softmax& b) {
    Softmax both;
    for (int i = 0; i < kQueries; ++i) {
        const float top = a.top[i] > b.top[i] ? a.top[i] : b.top[i];
        both.sum[i] = fma_(a.sum[i], ratio(a.top[i], top), b.sum[i] * ratio(b.top[i], top));
        both.top[i] = top;
    }
    return both;
}

PYDIFF_CLONES void rescale(const float* text, const Softmax& pixels, float* share) {
    for (int i = 0; i < kQueries; ++i) {
        const float now = pixels.sum[i] * share[i];
        share[i] = now > 0 ? share[i] * ((1 - text[i]) / now) : share[i];
    }
}

PYDIFF_CLONES void accumulate(const float* __restrict in, int64_t count, const float* share, float* __restrict out) {
    for (int64_t r = 0; r < count; ++r, in += kQueries, out += kQueries)
        for (int i = 0; i < kQueries; ++i) out[i] = fma_(in[i], share[i], out[i]);
}

PYDIFF_CLONES void weigh(const float* in, int64_t count, const float* weight, const float* share, float* out) {
    float sum[kQueries] = {};
    for (int64_t r = 0; r < count; ++r, in += kQueries)
        for (int i = 0; i < kQueries; ++i) sum[i] = fma_(in[i], weight[r], sum[i]);
    for (int i = 0; i < kQueries; ++i) out[i] = fma_(sum[i], share[i], out[i]);
}

template <int width>
PYDIFF_INLINE void combine_(const Lists& lists, const float* __restrict in, float* __restrict out) {
    const int64_t count = static_cast<int64_t>(lists.starts.size()) - 1;
    for (int64_t l = 0; l < count; ++l, out += width) {
        float sum[width] = {};
        for (int64_t at = lists.starts[l]; at < lists.starts[l + 1]; ++at) {
            const float* row = in + lists.index[at] * width;
            const float value = lists.value[at];
            for (int i = 0; i < width; ++i) sum[i] = fma_(row[i], value, sum[i]);
        }
        for (int i = 0; i < width; ++i) out[i] = sum[i];
    }
}

PYDIFF_CLONES void combine(const Lists& lists, const float* in, int width, float* out) {
    if (width == kPanel) combine_<kPanel>(lists, in, out);
    else combine_<kQueries>(lists, in, out);
}

// Four rows of four: shuffles instead of sixteen loads and stores.
PYDIFF_INLINE void transpose_4x4(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
    typedef float Four __attribute__((vector_size(16)));
    Four row[4], half[4];
    for (int r = 0; r < 4; ++r) std::memcpy(&row[r], in + r * in_stride, sizeof(Four));
    for (int r = 0; r < 2; ++r) {
        half[2 * r] = __builtin_shufflevector(row[2 * r], row[2 * r + 1], 0, 4, 1, 5);
        half[2 * r + 1] = __builtin_shufflevector(row[2 * r], row[2 * r + 1], 2, 6, 3, 7);
    }
    for (int c = 0; c < 2; ++c) {
        row[2 * c] = __builtin_shufflevector(half[c], half[c + 2], 0, 1, 4, 5);
        row[2 * c + 1] = __builtin_shufflevector(half[c], half[c + 2], 2, 3, 6, 7);
    }
    for (int c = 0; c < 4; ++c) std::memcpy(out + c * out_stride, &row[c], sizeof(Four));
#else
    for (int c = 0; c < 4; ++c)
        for (int r = 0; r < 4; ++r) out[c * out_stride + r] = in[r * in_stride + c];
#endif
}

PYDIFF_CLONES void transpose(const float* in, int64_t in_stride, float* out, int64_t out_stride, int64_t rows,
                             int64_t columns) {
    const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 4)
        for (int64_t c = 0; c < whole_columns; c += 4)
            transpose_4x4(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
            out[c * out_stride + r] = in[r * in_stride + c];
}

PYDIFF_CLONES void widen(const uint16_t* in, float* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = real(static_cast<int32_t>(uint32_t{in[i]} << 16));
}

PYDIFF_CLONES void narrow(const float* in, uint16_t* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t raw = static_cast<uint32_t>(bits(in[i]));
        const uint32_t nearest = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
        out[i] = static_cast<uint16_t>((raw & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);
    }
}

}  // namespace pydiff
