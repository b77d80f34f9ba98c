#include "attention_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pydiff {

constexpr double kLog2E = 1.4426950408889634;
constexpr float kLowest = -3.4e38f;  // what a finite bias is at least: a query whose keys all have it attends to all

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

static float scaled(float bias, float scale) {
    return std::isinf(bias) ? bias : std::max(bias * scale, kLowest);
}

Plan::Plan(const Attention& given)
    : a(given), pairs(a.bfloat16 && has_pairs()), words(pairs ? (a.dim + 1) / 2 : a.dim),
      panels(whole(a.dim, kPanel) / kPanel), key_size(whole(a.m, kPanel) * words),
      value_size(panels * kPanel * (pairs ? whole(a.m, kPanel) / 2 : a.m)),
      memory_((a.k.rows * key_size + a.v.rows * value_size) * a.heads + a.out.rows * whole(a.m, kPanel), 3) {
    const int64_t m = whole(a.m, kPanel);
    keys_ = memory_.take(a.k.rows * a.heads * key_size);
    values_ = memory_.take(a.v.rows * a.heads * value_size);
    biases_ = memory_.take(a.out.rows * m);
    std::fill(biases_, biases_ + a.out.rows * m, 0.0f);
    for (int64_t b = 0; b < a.out.rows; ++b) {
        for (int64_t t = 0; a.bias && t < a.text; ++t)
            biases_[b * m + t] = scaled(a.bias[b * a.text + t], std::sqrt(static_cast<float>(a.dim)));
        rows.push_back(make_row(b));
    }
    make_families();
}

Row Plan::make_row(int64_t b) const {
    const int64_t text = a.text, columns = a.columns;
    Row row;
    row.keep = a.keep + b * text;
    const float* probe = a.probe + b * text * columns;
    row.probe = make_lists(columns, text, [&](int64_t k, int64_t t) { return probe[t * columns + k]; });
    row.read = row.probe.index;
    std::sort(row.read.begin(), row.read.end());
    row.read.erase(std::unique(row.read.begin(), row.read.end()), row.read.end());
    if (!a.source || a.source[b] == b) return row;
    const float* transfer = a.transfer + b * text * text;
    row.transfer = make_lists(text, text, [&](int64_t to, int64_t t) { return transfer[t * text + to]; });
    return row;
}

void Plan::make_families() {
    for (int64_t b = 0; b < a.out.rows; ++b) families.push_back({b, !a.source || a.source[b] == b, {}});
    for (int64_t b = 0; b < a.out.rows; ++b)
        if (!families[b].plain) families[a.source[b]].borrowers.push_back(b);
    const auto empty = [](const Family& f) { return !f.plain && f.borrowers.empty(); };
    families.erase(std::remove_if(families.begin(), families.end(), empty), families.end());
    for (const Family& f : families) largest = std::max(largest, int64_t{f.plain} + int64_t(f.borrowers.size()));
}

Words Plan::read(const Heads& x, int64_t row, int64_t head, int64_t first, int64_t count, float* room) const {
    const int64_t at = row * x.row + head * x.head + first * x.item;
    if (!a.bfloat16) return {static_cast<const float*>(x.at) + at, x.item};
    const auto* from = static_cast<const uint16_t*>(x.at) + at;
    for (int64_t i = 0; i < count; ++i, from += x.item) {
        float* to = room + i * words;
        if (!pairs) {
            widen(from, to, a.dim);
            continue;
        }
        if (a.dim % 2) to[words - 1] = 0;
        std::memcpy(to, from, a.dim * sizeof *from);
    }
    return {room, words};
}

Tile Plan::tile(int64_t row, int64_t head) const {
    Tile t{};
    t.words = words, t.pairs = pairs, t.scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(a.dim)));
    t.keys = keys_ + (a.k_rows[row] * a.heads + head) * key_size;
    t.bias = biases_ + row * whole(a.m, kPanel);
    t.stride = value_size / panels;
    return t;
}

void Plan::pack(int64_t i) {
    const int64_t j = i - a.k.rows * a.heads;
    if (j < 0) return pack_keys(i / a.heads, i % a.heads, keys_ + i * key_size);
    float* out = values_ + j * value_size;
    if (pairs) pack_value_pairs(j / a.heads, j % a.heads, out);
    else pack_values(j / a.heads, j % a.heads, out);
}

void Plan::pack_keys(int64_t row, int64_t head, float* out) const {
    std::vector<float> room(a.bfloat16 ? kPanel * words : 0);
    for (int64_t j = 0; j < a.m; j += kPanel, out += kPanel * words) {
        const int64_t count = std::min<int64_t>(kPanel, a.m - j);
        if (count < kPanel) std::fill(out, out + kPanel * words, 0.0f);
        const Words k = read(a.k, row, head, j, count, room.data());
        transpose(k.at, k.stride, out, kPanel, count, words);
    }
}

void Plan::pack_values(int64_t row, int64_t head, float* out) const {
    std::vector<float> room(a.dim);
    for (int64_t j = 0; j < a.m; ++j) {
        const Words v = read(a.v, row, head, j, 1, room.data());
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

void Plan::pack_value_pairs(int64_t row, int64_t head, float* out) const {
    const int64_t stride = value_size / panels;
    std::vector<uint16_t> room(2 * panels * kPanel);
    uint16_t *low = room.data(), *high = low + panels * kPanel;
    const auto* v = static_cast<const uint16_t*>(a.v.at) + row * a.v.row + head * a.v.head;
    for (int64_t j = 0; j < whole(a.m, kPanel); j += 2, out += kPanel) {
        for (int64_t half = 0; half < 2; ++half) {
            uint16_t* to = half ? high : low;
            if (j + half < a.m) std::memcpy(to, v + (j + half) * a.v.item, a.dim * sizeof *to);
            else std::fill(to, to + a.dim, uint16_t{0});
        }
        interleave(low, high, panels, out, stride);
    }
}

}  // namespace pydiff
