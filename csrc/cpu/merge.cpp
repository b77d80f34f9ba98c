#include "merge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

constexpr int64_t kSources = 96;             // that meet a panel of destinations before the next one is taken
constexpr int64_t kSerialNumbers = 1 << 14;  // below which starting threads costs more than they save
constexpr int kTall = tile_rows(kColumns / kVector);

static Index index_of(const Grid& grid, int64_t image, int64_t pixel) {
    return {image, pixel / grid.width, pixel % grid.width};
}

// The pixel that is destination d.
static int64_t destination(const Matches& m, int64_t d) {
    return d / m.across() * 2 * m.grid.width + d % m.across() * 2;
}

// The pixel that is source s: lines with sources between destinations, and lines of sources alone, take turns.
static int64_t source(const Matches& m, int64_t s) {
    const int64_t width = m.grid.width, between = width / 2, pair = s / (between + width), rest = s % (between + width);
    return pair * 2 * width + (rest < between ? 2 * rest + 1 : width + rest - between);
}

static int64_t panels_of(const Matches& m) { return (m.destinations() + kColumns - 1) / kColumns; }

static bool is_destination(const Grid& grid, int64_t pixel) {
    return pixel / grid.width % 2 == 0 && pixel % grid.width % 2 == 0;
}

template <typename Number>
static const Number* pixel_at(const Picture& x, const Matches& m, int64_t image, int64_t pixel) {
    return static_cast<const Number*>(x.at) + x.place.at(index_of(m.grid, image, pixel));
}

// 1 / length of a row; 0 where it has no direction.
template <typename Number>
PYDIFF_WIDE static float inverse_length(const Number* x, int64_t channels) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < channels; c += kVector) {
        const __m512 v = load(x + c, first_of(channels - c));
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    const float length = std::sqrt(_mm512_reduce_add_ps(sum));
    return length > 0 ? 1 / length : 0;
}

// A panel of 64 destinations, as products read it: (channels, 64), in bfloat16 (channels / 2, 64, 2).
template <typename Number>
static void pack_panel(const Match& m, int64_t image, int64_t panel) {
    constexpr int64_t step = sizeof(float) / sizeof(Number);
    const int64_t channels = m.x.channels, count = m.to.destinations(), panels = panels_of(m.to);
    Number* out = static_cast<Number*>(m.packed) + (image * panels + panel) * channels * kColumns;
    float* inverse = m.inverse + (image * panels + panel) * kColumns;
    std::fill_n(out, channels * kColumns, Number{0});
    std::fill_n(inverse, kColumns, 0.0f);
    for (int64_t j = 0; j < std::min<int64_t>(kColumns, count - panel * kColumns); ++j) {
        const Number* x = pixel_at<Number>(m.x, m.to, image, destination(m.to, panel * kColumns + j));
        for (int64_t c = 0; c < channels; ++c) out[c / step * step * kColumns + j * step + c % step] = x[c];
        inverse[j] = inverse_length(x, channels);
    }
}

// The nearest destination so far of some sources, lane by lane of the vectors that the destinations stand in.
struct Nearest {
    alignas(64) float best[kSources][kVector];
    alignas(64) int32_t at[kSources][kVector];
};

// sums (64,) of a source with a panel of destinations, from `column` on.
PYDIFF_WIDE static void compare(const float* sums, const float* inverse, int64_t column, int64_t count, float* best,
                                int32_t* at) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 top = load(best);
    __m512i where = _mm512_load_si512(at);
    for (int64_t i = 0; i < std::min<int64_t>(kColumns, count - column); i += kVector) {
        const __m512 score = _mm512_mul_ps(load(sums + i), load(inverse + i));
        const __mmask16 more = _mm512_mask_cmp_ps_mask(first_of(count - column - i), score, top, _CMP_GT_OQ);
        top = _mm512_mask_mov_ps(top, more, score);
        where = _mm512_mask_add_epi32(where, more, lanes, _mm512_set1_epi32(static_cast<int32_t>(column + i)));
    }
    store(best, top);
    _mm512_store_si512(at, where);
}

// The best of the lanes, the first destination of those that are as good.
static int lane_of(const float* best, const int32_t* at) {
    int lane = 0;
    for (int i = 1; i < kVector; ++i)
        if (best[i] > best[lane] || (best[i] == best[lane] && at[i] < at[lane])) lane = i;
    return lane;
}

// Sources [first, last) of a picture, each with its nearest destination.
template <typename Number>
static void match_sources(const Match& m, int64_t image, int64_t first, int64_t last) {
    const int64_t channels = m.x.channels, count = m.to.destinations(), panels = panels_of(m.to);
    const Segment whole{0, channels};
    const Number* rows[kSources + kTall];
    Nearest nearest;
    for (int64_t s = first; s < last; ++s) {
        rows[s - first] = pixel_at<Number>(m.x, m.to, image, source(m.to, s));
        std::fill_n(nearest.best[s - first], kVector, -std::numeric_limits<float>::infinity());
        std::fill_n(nearest.at[s - first], kVector, 0);
    }
    std::fill_n(rows + last - first, kTall, rows[0]);
    for (int64_t panel = 0; panel < panels; ++panel) {
        alignas(64) float sums[kTall * kColumns];
        const Number* packed = static_cast<const Number*>(m.packed) + (image * panels + panel) * channels * kColumns;
        const float* inverse = m.inverse + (image * panels + panel) * kColumns;
        for (int64_t r = 0; r < last - first; r += kTall) {
            TileIn in{{}, &whole, 1, packed, sums, false};
            std::copy_n(rows + r, kTall, in.rows);
            tile(in, kColumns / kVector, sizeof(Number) == 2 ? Kind::bfloat16 : Kind::float32);
            for (int64_t i = 0; i < std::min<int64_t>(kTall, last - first - r); ++i)
                compare(sums + i * kColumns, inverse, panel * kColumns, count, nearest.best[r + i], nearest.at[r + i]);
        }
    }
    for (int64_t r = 0; r < last - first; ++r) {
        const int lane = lane_of(nearest.best[r], nearest.at[r]);
        const float cosine = nearest.best[r][lane] * inverse_length(rows[r], channels);
        const int64_t to = image * m.to.sources() + first + r;
        m.best[to] = cosine >= -2 ? cosine : -2;  // of NaN too, so that there is an order
        m.nearest[to] = nearest.at[r][lane];
    }
}

// The sources of the largest cosines join their destinations; the others stand behind those, alone.
static void place_pixels(const Match& m, int64_t image) {
    const Matches& to = m.to;
    const int64_t n = to.pixels(), sources = to.sources(), merged = n - to.left;
    const float* best = m.best + image * sources;
    int32_t *order = m.order + image * sources, *place = to.place + image * n, next = to.destinations();
    std::iota(order, order + sources, 0);
    std::nth_element(order, order + merged, order + sources, [best](int32_t a, int32_t b) {
        return best[a] > best[b] || (best[a] == best[b] && a < b);
    });
    std::fill_n(place, n, -1);
    for (int64_t i = 0; i < merged; ++i) place[source(to, order[i])] = m.nearest[image * sources + order[i]];
    int32_t *starts = to.starts + image * (to.left + 2), *members = to.members + image * n;
    std::fill_n(starts, to.left + 2, 0);
    for (int64_t pixel = 0, d = 0; pixel < n; ++pixel) {
        if (is_destination(to.grid, pixel)) place[pixel] = d++;
        else if (place[pixel] < 0) place[pixel] = next++;
        ++starts[place[pixel] + 2];
    }
    for (int64_t i = 2; i < to.left + 2; ++i) starts[i] += starts[i - 1];
    const auto add = [&](int64_t pixel) { members[starts[place[pixel] + 1]++] = static_cast<int32_t>(pixel); };
    for (int64_t d = 0; d < to.destinations(); ++d) add(destination(to, d));
    for (int64_t pixel = 0; pixel < n; ++pixel)
        if (!is_destination(to.grid, pixel)) add(pixel);
}

template <typename Number>
static void match_as(const Match& m, int threads) {
    const int64_t images = m.to.grid.images, sources = m.to.sources();
    const int64_t panels = panels_of(m.to), blocks = (sources + kSources - 1) / kSources;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < images * panels; ++i) pack_panel<Number>(m, i / panels, i % panels);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < images * blocks; ++i) {
            const int64_t first = i % blocks * kSources;
            match_sources<Number>(m, i / blocks, first, std::min(first + kSources, sources));
        }
#pragma omp for schedule(static)
        for (int64_t image = 0; image < images; ++image) place_pixels(m, image);
    }
}

void match(const Match& m, int threads) {
    if (m.to.grid.rows() * m.x.channels < kSerialNumbers) threads = 1;
    m.x.bfloat16 ? match_as<uint16_t>(m, threads) : match_as<float>(m, threads);
}

// first + the mean of (x - first): pixels that are the same stay as they are, bit for bit.
template <typename Number>
PYDIFF_WIDE static void merge_place(const Merge& m, int64_t image, int64_t at) {
    const Matches& from = m.matches;
    const int32_t *starts = from.starts + image * (from.left + 2), *members = from.members + image * from.pixels();
    const int32_t first = starts[at], last = starts[at + 1];
    const auto row = [&](int32_t i) { return pixel_at<Number>(m.x, from, image, members[i]); };
    Number* out = static_cast<Number*>(m.out.at) + m.out.place.at({image, 0, at});
    const __m512 share = _mm512_set1_ps(1.0f / static_cast<float>(last - first));
    for (int64_t c = 0; c < m.x.channels; c += kVector) {
        const __mmask16 mask = first_of(m.x.channels - c);
        const __m512 own = load(row(first) + c, mask);
        __m512 apart = _mm512_setzero_ps();
        for (int32_t i = first + 1; i < last; ++i)
            apart = _mm512_add_ps(apart, _mm512_sub_ps(load(row(i) + c, mask), own));
        store(out + c, _mm512_fmadd_ps(apart, share, own), mask);
    }
}

void merge(const Merge& m, int threads) {
    const int64_t left = m.matches.left, rows = m.matches.grid.images * left;
    if (rows * m.x.channels < kSerialNumbers) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < rows; ++i)
        m.x.bfloat16 ? merge_place<uint16_t>(m, i / left, i % left) : merge_place<float>(m, i / left, i % left);
}

template <typename Number>
PYDIFF_WIDE static void unmerge_pixel(const Unmerge& u, const Index& pixel) {
    const Grid& grid = u.matches.grid;
    const int64_t n = u.matches.pixels(), at = pixel.image * n + pixel.line * grid.width + pixel.item;
    const Number* x = static_cast<const Number*>(u.x.at) + u.x.place.at({pixel.image, 0, u.matches.place[at]});
    const Number* residual = u.residual ? static_cast<const Number*>(u.residual) + u.beside.at(pixel) : nullptr;
    Number* out = static_cast<Number*>(u.out.at) + u.out.place.at(pixel);
    const __m512 scale = _mm512_set1_ps(u.scale);
    for (int64_t c = 0; c < u.out.channels; c += kVector) {
        const __mmask16 mask = first_of(u.out.channels - c);
        __m512 h = load(x + c, mask);
        if (residual) h = _mm512_add_ps(h, load(residual + c, mask));
        store(out + c, _mm512_mul_ps(h, scale), mask);
    }
}

void unmerge(const Unmerge& u, int threads) {
    const Grid& grid = u.matches.grid;
    if (grid.rows() * u.out.channels < kSerialNumbers) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < grid.rows(); ++row) {
        const Index pixel = Index::of(grid, row);
        u.x.bfloat16 ? unmerge_pixel<uint16_t>(u, pixel) : unmerge_pixel<float>(u, pixel);
    }
}

}  // namespace pydiff
#endif
