#include "attention_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pydiff {

// number(l, i): of list l, at index i
template <typename Number>
static Lists make_lists(int64_t count, int64_t length, const Number& number) {
    Lists lists;
    lists.starts.push_back(0);
    for (int64_t l = 0; l < count; ++l) {
        for (int64_t i = 0; i < length; ++i)
            if (const float x = number(l, i); x != 0) lists.index.push_back(i), lists.value.push_back(x);
        lists.starts.push_back(static_cast<int64_t>(lists.index.size()));
    }
    return lists;
}

Numbers read(const Attention& a, const Heads& x, int64_t row, int64_t head, int64_t first, int64_t count, float* room) {
    const int64_t at = row * x.row + head * x.head + first * x.item;
    if (!a.bfloat16) return {static_cast<const float*>(x.at) + at, x.item};
    const auto* from = static_cast<const uint16_t*>(x.at) + at;
    for (int64_t i = 0; i < count; ++i) widen(from + i * x.item, room + i * a.dim, a.dim);
    return {room, a.dim};
}

Plan::Plan(const Attention& given, int threads)
    : a(given), panels(whole(a.dim, kPanel) / kPanel), key_size(whole(a.m, kPanel) * a.dim),
      value_size(panels * kPanel * a.m),
      memory_((a.k.rows * key_size + a.v.rows * value_size) * a.heads + a.out.rows * whole(a.m, kPanel), 3) {
    const int64_t k_count = a.k.rows * a.heads, packs = k_count + a.v.rows * a.heads, m = whole(a.m, kPanel);
    keys_ = memory_.take(k_count * key_size);
    values_ = memory_.take(a.v.rows * a.heads * value_size);
    biases_ = memory_.take(a.out.rows * m);
    std::fill(biases_, biases_ + a.out.rows * m, 0.0f);
    for (int64_t b = 0; b < a.out.rows; ++b) {
        if (a.bias) std::copy(a.bias + b * a.text, a.bias + (b + 1) * a.text, biases_ + b * m);
        rows.push_back(make_row(b));
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < packs; ++i) {
        const int64_t j = i - k_count;
        if (j < 0) pack_keys(i / a.heads, i % a.heads, keys_ + i * key_size);
        else pack_values(j / a.heads, j % a.heads, values_ + j * value_size);
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < a.out.rows * a.heads; ++i)
        if (rows[i / a.heads].edited()) mix_values(i / a.heads, i % a.heads);
}

Tile Plan::tile(int64_t row, int64_t head) const {
    Tile t{};
    t.dim = a.dim, t.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.dim)));
    t.keys = keys_ + (a.k_rows[row] * a.heads + head) * key_size;
    t.bias = biases_ + row * whole(a.m, kPanel);
    return t;
}

Row Plan::make_row(int64_t b) const {
    const int64_t size = a.text * a.columns;
    const float* probe = a.probe + b * size;
    Row row;
    row.captured = size > 0 && std::any_of(probe, probe + size, [](float x) { return x != 0; });
    row.views.push_back(make_view(b, b));
    if (a.source && a.source[b] != b) row.views.push_back(make_view(b, a.source[b]));
    return row;
}

View Plan::make_view(int64_t b, int64_t row) const {
    const int64_t text = a.text, columns = a.columns;
    const bool own = row == b, edited = a.source && a.source[b] != b;
    View view;
    view.row = row;
    const float* probe = a.probe + b * text * columns;
    if (!edited) {
        view.probe = make_lists(columns, text, [&](int64_t k, int64_t t) { return probe[t * columns + k]; });
        return view;
    }
    const float *keep = a.keep + b * text, *transfer = a.transfer + b * text * text;
    view.mix = make_lists(text, text, [&](int64_t t, int64_t to) {
        return own ? (t == to ? keep[t] : 0.0f) : transfer[t * text + to];
    });
    std::vector<float> mixed(text * columns);
    view.sums.resize(text);
    for (int64_t t = 0; t < text; ++t) {
        for (int64_t i = view.mix.starts[t]; i < view.mix.starts[t + 1]; ++i) {
            view.sums[t] += view.mix.value[i];
            const float* row = probe + view.mix.index[i] * columns;
            for (int64_t k = 0; k < columns; ++k) mixed[t * columns + k] += view.mix.value[i] * row[k];
        }
    }
    view.probe = make_lists(columns, text, [&](int64_t k, int64_t t) { return mixed[t * columns + k]; });
    view.values.resize(a.heads * panels * text * kPanel);
    return view;
}

void Plan::pack_keys(int64_t row, int64_t head, float* out) const {
    std::vector<float> room(a.bfloat16 ? kPanel * a.dim : 0);
    for (int64_t j = 0; j < a.m; j += kPanel, out += kPanel * a.dim) {
        const int64_t count = std::min<int64_t>(kPanel, a.m - j);
        if (count < kPanel) std::fill(out, out + kPanel * a.dim, 0.0f);
        const Numbers k = read(a, a.k, row, head, j, count, room.data());
        transpose(k.at, k.stride, out, kPanel, count, a.dim);
    }
}

void Plan::pack_values(int64_t row, int64_t head, float* out) const {
    std::vector<float> room(a.dim);
    for (int64_t j = 0; j < a.m; ++j) {
        const Numbers v = read(a, a.v, row, head, j, 1, room.data());
        for (int64_t c = 0; c < a.dim; c += kPanel) {
            float* to = out + c * a.m + j * kPanel;
            if (c + kPanel <= a.dim) {
                std::memcpy(to, v.at + c, kPanel * sizeof *to);
            } else {
                std::fill(std::copy(v.at + c, v.at + a.dim, to), to + kPanel, 0.0f);
            }
        }
    }
}

void Plan::mix_values(int64_t b, int64_t head) {
    const int64_t size = a.text * kPanel;
    for (View& view : rows[b].views)
        for (int64_t p = 0; p < panels; ++p)
            combine(view.mix, values(a.v_rows[b], head) + p * kPanel * a.m, kPanel,
                    view.values.data() + (head * panels + p) * size);
}

}  // namespace pydiff
