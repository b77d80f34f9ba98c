#include "attention_tile.h"

#include <algorithm>
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

// 2^((top - above) scale): 0 where no key is seen yet.
PYDIFF_INLINE float ratio(float top, float above, float scale) {
    return above == -kInfinity ? 0.0f : decay((top - above) * scale);
}

// Products (count, kQueries) become 2^((product - top) scale), top the largest of them and of the earlier ones.
PYDIFF_CLONES void soften(float* products, int64_t count, Softmax& s) {
    const float scale = s.scale;
    float high[kQueries], origin[kQueries], sum[kQueries] = {};
    std::fill(high, high + kQueries, -kInfinity);
    for (int64_t j = 0; j < count; ++j)
        for (int i = 0; i < kQueries; ++i) {
            const float product = products[j * kQueries + i];
            high[i] = product > high[i] ? product : high[i];
        }
    for (int i = 0; i < kQueries; ++i) {
        const float top = high[i] > s.top[i] ? high[i] : s.top[i];
        s.ratio[i] = ratio(s.top[i], top, scale);
        s.top[i] = top;
        origin[i] = top == -kInfinity ? 0.0f : top;
    }
    for (int64_t j = 0; j < count; ++j, products += kQueries) {
        for (int i = 0; i < kQueries; ++i) {
            const float weight = decay((products[i] - origin[i]) * scale);
            products[i] = weight;
            sum[i] += weight;
        }
    }
    for (int i = 0; i < kQueries; ++i) s.sum[i] = fma_(s.sum[i], s.ratio[i], sum[i]);
}

PYDIFF_CLONES void multiply_words(const Tile& t, int64_t first, int64_t last, float* products) {
    for (int64_t j = first; j < last; j += kPanel, products += kPanel * kQueries) {
        const float* bias = t.bias + j;
        outer(t.keys + j * t.words, t.q, t.words,
              [&](int r, int i, float c) { products[r * kQueries + i] = c + bias[r]; });
    }
}

void add_scores(const Tile& t, int64_t first, int64_t last, Softmax& s, float* weights) {
    const int64_t from = first / kPanel * kPanel, count = whole(last, kPanel) - from;
    (t.pairs ? multiply_pairs : multiply_words)(t, from, last, weights);
    std::fill(weights, weights + (first - from) * kQueries, -kInfinity);
    std::fill(weights + (last - from) * kQueries, weights + count * kQueries, -kInfinity);
    soften(weights, count, s);
}

PYDIFF_CLONES void add_words(const Tile& t, int64_t first, int64_t last, const float* weights, const float* ratio,
                             float* out) {
    for (int64_t p = 0; p < t.panels; ++p, out += kPanel * kQueries)
        outer(t.values + p * t.stride + first * kPanel, weights, last - first, [&](int r, int i, float c) {
            out[r * kQueries + i] = fma_(out[r * kQueries + i], ratio[i], c);
        });
}

void add_values(const Tile& t, int64_t first, int64_t last, const float* weights, const float* ratio, float* out) {
    const int64_t from = first / kPanel * kPanel;
    if (t.pairs) add_pairs(t, from, whole(last, kPanel), weights, ratio, out);
    else add_words(t, first, last, weights + (first - from) * kQueries, ratio, out);
}

void start(Softmax& s, float scale) {
    s.scale = scale;
    std::fill(s.top, s.top + kQueries, -kInfinity);
    std::fill(s.sum, s.sum + kQueries, 0.0f);
}

PYDIFF_CLONES void shares(const float* top, const Softmax& s, float parts, float* share) {
    for (int i = 0; i < kQueries; ++i) {
        const float all = s.sum[i] * parts;
        share[i] = ratio(top[i], s.top[i], s.scale) / (all == 0 ? 1.0f : all);
    }
}

PYDIFF_CLONES Softmax join(const Softmax& a, const Softmax& b) {
    Softmax both;
    both.scale = a.scale;
    for (int i = 0; i < kQueries; ++i) {
        const float top = a.top[i] > b.top[i] ? a.top[i] : b.top[i];
        both.sum[i] = fma_(a.sum[i], ratio(a.top[i], top, a.scale), b.sum[i] * ratio(b.top[i], top, a.scale));
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

PYDIFF_CLONES void multiply(float* out, int64_t count, const float* share) {
    for (int64_t r = 0; r < count; ++r, out += kQueries)
        for (int i = 0; i < kQueries; ++i) out[i] *= share[i];
}

// sum[i] += sum over list l of in[index][i] value
PYDIFF_INLINE void add_list(const Lists& lists, int64_t l, const float* in, float* sum) {
    for (int64_t at = lists.starts[l]; at < lists.starts[l + 1]; ++at) {
        const float* row = in + lists.index[at] * kQueries;
        const float value = lists.value[at];
        for (int i = 0; i < kQueries; ++i) sum[i] = fma_(row[i], value, sum[i]);
    }
}

PYDIFF_CLONES void combine(const Lists& lists, const float* in, float* __restrict out) {
    const int64_t count = static_cast<int64_t>(lists.starts.size()) - 1;
    for (int64_t l = 0; l < count; ++l, out += kQueries) {
        float sum[kQueries] = {};
        add_list(lists, l, in, sum);
        for (int i = 0; i < kQueries; ++i) out[i] = sum[i];
    }
}

PYDIFF_CLONES void edit(const Lists& lists, const float* lent, const float* share, const float* keep,
                        float* __restrict own, float* __restrict total) {
    const int64_t count = static_cast<int64_t>(lists.starts.size()) - 1;
    for (int64_t l = 0; l < count; ++l, own += kQueries) {
        float sum[kQueries];
        for (int i = 0; i < kQueries; ++i) sum[i] = own[i] * share[i] * keep[l];
        add_list(lists, l, lent, sum);
        for (int i = 0; i < kQueries; ++i) own[i] = sum[i];
        for (int i = 0; i < kQueries; ++i) total[i] += sum[i];
    }
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

PYDIFF_CLONES void interleave(const uint16_t* low, const uint16_t* high, int64_t panels, float* out, int64_t stride) {
    for (int64_t p = 0; p < panels; ++p, low += kPanel, high += kPanel, out += stride)
        for (int c = 0; c < kPanel; ++c) out[c] = real(static_cast<int32_t>(low[c] | uint32_t{high[c]} << 16));
}

PYDIFF_CLONES void widen(const uint16_t* in, float* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = widened(in[i]);
}

PYDIFF_CLONES void narrow(const float* in, uint16_t* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = nearest(in[i]);
}

}  // namespace pydiff
