#include "normalise.h"

#include <algorithm>
#include <cmath>

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int64_t kSumRows = 64;            // that are added in float32
constexpr int64_t kSerialNumbers = 1 << 14;  // below which starting threads costs more than they save

static int threads_for(const Picture& x, int threads) {
    return x.grid.rows() * x.channels < kSerialNumbers ? 1 : threads;
}

template <typename Number>
static const Number* row_at(const Picture& x, const Index& i) {
    return static_cast<const Number*>(x.at) + x.place.at(i);
}

template <typename Number>
static Number* out_at(const Picture& x, const Index& i) {
    return static_cast<Number*>(x.at) + x.place.at(i);
}

// Sums of (x - origin) and of its square over rows [first, last) of a picture: sums (2, channels).
template <typename Number>
PYDIFF_WIDE static void add_rows(const Picture& x, int64_t first, int64_t last, const Number* origin, double* sums) {
    const int64_t channels = x.channels;
    for (int64_t c = 0; c < channels; c += kVector) {
        const __mmask16 mask = first_of(channels - c);
        const __m512 centre = load(origin + c, mask);
        __m512 sum = _mm512_setzero_ps(), squared = sum;
        Index i = Index::of(x.grid, first);
        for (int64_t row = first; row < last; ++row, i.next(x.grid)) {
            const __m512 d = _mm512_sub_ps(load(row_at<Number>(x, i) + c, mask), centre);
            sum = _mm512_add_ps(sum, d), squared = _mm512_fmadd_ps(d, d, squared);
        }
        alignas(64) float both[2][kVector];
        store(both[0], sum), store(both[1], squared);
        for (int64_t j = 0; j < std::min<int64_t>(kVector, channels - c); ++j)
            sums[c + j] = both[0][j], sums[channels + c + j] = both[1][j];
    }
}

// The sums (2, channels) of n items around origin become affines (3, channels) of picture b.
template <typename Number>
static void make_affines(const Statistics& s, int64_t b, const double* sums, const Number* origin) {
    const int64_t channels = s.x.channels, width = channels / s.groups, n = s.x.grid.height * s.x.grid.width;
    float* affines = s.affines + b * 3 * channels;
    std::vector<double> from(channels);
    for (int64_t c = 0; c < channels; ++c)
        if constexpr (sizeof(Number) == 2) from[c] = widened(origin[c]);
        else from[c] = origin[c];
    for (int64_t first = 0; first < channels; first += width) {
        double mean = 0, squared = 0;
        for (int64_t c = first; c < first + width; ++c) mean += (from[c] + sums[c] / n) / width;
        for (int64_t c = first; c < first + width; ++c) {
            const double own = sums[c] / n, apart = from[c] + own - mean;
            squared += std::max(sums[channels + c] / n - own * own, 0.0) + apart * apart;
        }
        const double inverse = 1 / std::sqrt(squared / width + s.eps);
        for (int64_t c = first; c < first + width; ++c) {
            const double wide = s.scale ? 1.0 + s.scale[b * s.told_stride + c] : 1.0;
            const double gain = inverse * (s.weight ? s.weight[c] : 1.0) * wide;
            const double offset = (s.bias ? s.bias[c] : 0.0) * wide + (s.shift ? s.shift[b * s.told_stride + c] : 0.0);
            const float centre = static_cast<float>(mean);
            affines[c] = centre, affines[channels + c] = static_cast<float>(gain);
            affines[2 * channels + c] = static_cast<float>(offset - (mean - centre) * gain);
        }
    }
}

template <typename Number>
static void statistics_of(const Statistics& s, int threads) {
    const Grid& grid = s.x.grid;
    const int64_t n = grid.height * grid.width, parts = (n + kSumRows - 1) / kSumRows, size = 2 * s.x.channels;
    std::vector<double> sums(grid.images * parts * size);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < grid.images * parts; ++i) {
        const int64_t b = i / parts, first = i % parts * kSumRows;
        add_rows(s.x, b * n + first, b * n + std::min(first + kSumRows, n), row_at<Number>(s.x, {b, 0, 0}),
                 sums.data() + i * size);
    }
    for (int64_t b = 0; b < grid.images; ++b) {
        double* total = sums.data() + b * parts * size;
        for (int64_t i = 1; i < parts; ++i)
            for (int64_t c = 0; c < size; ++c) total[c] += total[i * size + c];
        make_affines(s, b, total, row_at<Number>(s.x, {b, 0, 0}));
    }
}

void statistics(const Statistics& s, int threads) {
    threads = threads_for(s.x, threads);
    s.x.bfloat16 ? statistics_of<uint16_t>(s, threads) : statistics_of<float>(s, threads);
}

// Lines of out with its edges, `work(index of the line)` for each that is not an edge.
template <typename Number, typename Work>
static void over_lines(const Picture& out, int64_t edge, int threads, const Work& work) {
    const Grid& grid = out.grid;
    const int64_t lines = grid.height + 2 * edge;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < grid.images * lines; ++i) {
        const Index line{i / lines, i % lines - edge, 0};
        Number* at = out_at<Number>(out, line);
        const auto zero = [&](int64_t from, int64_t to) {
            for (int64_t j = from; j < to; ++j) std::fill_n(at + j * out.place.item, out.channels, Number{0});
        };
        if (line.line < 0 || line.line >= grid.height) {
            zero(-edge, grid.width + edge);
            continue;
        }
        zero(-edge, 0), zero(grid.width, grid.width + edge);
        work(line);
    }
}

template <typename In, typename Out>
PYDIFF_WIDE static void normalise_line(const Normalise& n, const Index& line) {
    const int64_t channels = n.x.channels, width = n.x.grid.width, padded = n.out.channels;
    const In* x = row_at<In>(n.x, line);
    Out* out = out_at<Out>(n.out, line);
    const float* affines = n.affines ? n.affines + line.image * 3 * channels : nullptr;
    for (int64_t c = 0; c < padded; c += kVector) {
        const __mmask16 in = first_of(std::max<int64_t>(channels - c, 0)), mask = first_of(padded - c);
        const __m512 centre = affines ? load(affines + c, in) : _mm512_setzero_ps();
        const __m512 gain = affines ? load(affines + channels + c, in) : _mm512_set1_ps(1);
        const __m512 offset = affines ? load(affines + 2 * channels + c, in) : _mm512_setzero_ps();
        for (int64_t i = 0; i < width; ++i) {
            __m512 h = load(x + i * n.x.place.item + c, in);
            if (affines) h = _mm512_fmadd_ps(_mm512_sub_ps(h, centre), gain, offset);
            store(out + i * n.out.place.item + c, activated(h, n.act), mask);
        }
    }
}

template <typename In, typename Out>
static void normalise_as(const Normalise& n, int threads) {
    over_lines<Out>(n.out, n.edge, threads, [&](const Index& line) { normalise_line<In, Out>(n, line); });
}

void normalise(const Normalise& n, int threads) {
    threads = threads_for(n.out, threads);
    if (!n.out.bfloat16) return normalise_as<float, float>(n, threads);
    n.x.bfloat16 ? normalise_as<uint16_t, uint16_t>(n, threads) : normalise_as<float, uint16_t>(n, threads);
}

template <typename Number>
PYDIFF_WIDE static void resample_line(const Resample& r, const Index& line) {
    const Picture& x = r.x;
    const Grid& to = r.out.grid;
    for (int64_t i = 0; i < to.width; ++i) {
        Number* out = out_at<Number>(r.out, {line.image, line.line, i});
        const Index near{line.image, line.line * x.grid.height / to.height, i * x.grid.width / to.width};
        const Index corner{line.image, 2 * line.line, 2 * i};
        const Number* at = row_at<Number>(x, r.mean ? corner : near);
        for (int64_t c = 0; c < x.channels; c += kVector) {
            const __mmask16 mask = first_of(x.channels - c);
            __m512 h = load(at + c, mask);
            if (r.mean) {
                const __m512 right = load(at + x.place.item + c, mask), low = load(at + x.place.line + c, mask);
                const __m512 last = load(at + x.place.line + x.place.item + c, mask);
                h = _mm512_mul_ps(_mm512_add_ps(_mm512_add_ps(h, right), _mm512_add_ps(low, last)),
                                  _mm512_set1_ps(0.25f));
            }
            store(out + c, h, mask);
        }
    }
}

template <typename Number>
static void resample_as(const Resample& r, int threads) {
    over_lines<Number>(r.out, r.edge, threads, [&](const Index& line) { resample_line<Number>(r, line); });
}

void resample(const Resample& r, int threads) {
    threads = threads_for(r.out, threads);
    r.x.bfloat16 ? resample_as<uint16_t>(r, threads) : resample_as<float>(r, threads);
}

template <typename Number>
PYDIFF_WIDE static void layer_norm_row(const LayerNorm& l, const Index& row) {
    const int64_t channels = l.x.channels;
    const Number* x = row_at<Number>(l.x, row);
    Number* out = out_at<Number>(l.out, row);
    __m512 sum = _mm512_setzero_ps(), squared = sum;
    for (int64_t c = 0; c < channels; c += kVector) sum = _mm512_add_ps(sum, load(x + c, first_of(channels - c)));
    const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(channels);
    for (int64_t c = 0; c < channels; c += kVector) {
        const __mmask16 mask = first_of(channels - c);
        const __m512 d = _mm512_maskz_sub_ps(mask, load(x + c, mask), _mm512_set1_ps(mean));
        squared = _mm512_fmadd_ps(d, d, squared);
    }
    const float variance = _mm512_reduce_add_ps(squared) / static_cast<float>(channels);
    const __m512 inverse = _mm512_set1_ps(1.0f / std::sqrt(variance + l.eps));
    for (int64_t c = 0; c < channels; c += kVector) {
        const __mmask16 mask = first_of(channels - c);
        const __m512 d = _mm512_mul_ps(_mm512_sub_ps(load(x + c, mask), _mm512_set1_ps(mean)), inverse);
        store(out + c, _mm512_fmadd_ps(d, load(l.weight + c, mask), load(l.bias + c, mask)), mask);
    }
}

void layer_norm(const LayerNorm& l, int threads) {
    threads = threads_for(l.x, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < l.x.grid.rows(); ++row) {
        const Index i = Index::of(l.x.grid, row);
        l.x.bfloat16 ? layer_norm_row<uint16_t>(l, i) : layer_norm_row<float>(l, i);
    }
}

}  // namespace pydiff
#endif
