// Attention that gives out its maps and takes edits of them, in one pass that forms no map.
//
// A query meets a head's keys in tiles, its softmax kept up to date as they come (Milakov and Gimelshein 2018; Dao et
// al. 2022). Weights of the text's keys stay in cache until their sum is known; their average over the heads meets the
// probe once. An edited row is two attentions to text, its source's and its own, whose values are mixed beforehand, and
// one to the pixels (see pydiff/ops/attention.py).
#include <algorithm>

#include "../pydiff.h"
#include "attention_plan.h"
#include "attention_tile.h"

namespace pydiff {

constexpr int64_t kSerial = 1 << 18;  // multiplications below which starting threads costs more than they save
constexpr int64_t kGroups = 4;        // groups of kQueries that a thread takes at a time, at most
constexpr int64_t kNear = 1 << 16;    // floats of keys and values that stay in the second-level cache

// kQueries queries of a row, or the last of them.
struct Group {
    int64_t first, count;
    Softmax softmax;
    float *q, *out, *kept, *tops;  // (dim, 16), (columns, 16), weights of text (text, 16), top of its tiles (tiles, 16)
    float* average[2];             // over heads, of the weights of text (text, 16) in each view
};

// One thread's buffers, and what it does with a block of queries.
class Worker {
public:
    explicit Worker(const Plan& plan);
    // Queries [first, last), at most kGroups groups, of the heads [head, end) of row b.
    void run(int64_t b, int64_t head, int64_t end, int64_t first, int64_t last);

private:
    const Plan& p_;
    const Attention& a_;
    const int64_t columns_, text_;  // of a head's output, and the text's, in whole panels and tiles
    Floats memory_;
    float *weights_, *result_, *room_, *heat_, *own_, *kept_, *pixels_;
    Group groups_[kGroups];

    void load(const Group& g, int64_t row, int64_t head);
    void store(const Group& g, int64_t b, int64_t head);
    void plain(int64_t b, int64_t head, int64_t count);
    void finish(Group& g, int64_t b, int64_t head);
    void edited(Group& g, int64_t b, int64_t head);
    void emit(const Group& g, int64_t b);
};

static int64_t scratch(const Attention& a, int64_t columns, int64_t text) {
    const int64_t group = a.dim + columns + 3 * text + text / kTile;
    return kQueries * (kGroups * group + kTile + kPanel + a.dim + 2 * a.columns + 3 * columns + text);
}

Worker::Worker(const Plan& plan)
    : p_(plan), a_(plan.a), columns_(plan.panels * kPanel), text_(whole(a_.text, kTile)),
      memory_(scratch(a_, columns_, text_), 7 + 6 * kGroups) {
    const auto take = [&](int64_t rows) { return memory_.take(kQueries * rows); };
    weights_ = take(kTile + kPanel), result_ = take(columns_), room_ = take(a_.dim), heat_ = take(2 * a_.columns);
    own_ = take(columns_), kept_ = take(text_), pixels_ = take(columns_);
    for (Group& g : groups_) {
        g.q = take(a_.dim), g.out = take(columns_), g.kept = take(text_), g.tops = take(text_ / kTile);
        for (float*& average : g.average) average = take(text_);
    }
}

void Worker::load(const Group& g, int64_t row, int64_t head) {
    if (g.count < kQueries) std::fill(g.q, g.q + kQueries * a_.dim, 0.0f);
    const Numbers q = read(a_, a_.q, row, head, g.first, g.count, room_);
    transpose(q.at, q.stride, g.q, kQueries, g.count, a_.dim);
}

void Worker::store(const Group& g, int64_t b, int64_t head) {
    const int64_t at = b * a_.out.row + head * a_.out.head + g.first * a_.out.item;
    if (!a_.bfloat16) {
        transpose(result_, kQueries, static_cast<float*>(a_.out.at) + at, a_.out.item, a_.dim, g.count);
        return;
    }
    transpose(result_, kQueries, room_, a_.dim, a_.dim, g.count);
    for (int64_t i = 0; i < g.count; ++i)
        narrow(room_ + i * a_.dim, static_cast<uint16_t*>(a_.out.at) + at + i * a_.out.item, a_.dim);
}

// All groups meet a tile before the next one is read.
void Worker::plain(int64_t b, int64_t head, int64_t count) {
    const int64_t captured = p_.rows[b].captured ? a_.text : 0;
    for (int64_t i = 0; i < count; ++i) {
        load(groups_[i], a_.q_rows[b], head);
        start(groups_[i].softmax, groups_[i].out, kQueries * columns_);
    }
    Tile t = p_.tile(b, head);
    t.values = p_.values(a_.v_rows[b], head), t.panels = p_.panels, t.stride = kPanel * a_.m;
    for (int64_t j = 0; j < a_.m; j += kTile) {
        for (int64_t i = 0; i < count; ++i) {
            Group& g = groups_[i];
            float* weights = j < captured ? g.kept + j * kQueries : weights_;
            t.q = g.q;
            add_tile(t, j, std::min(j + kTile, a_.m), g.softmax, weights, g.out);
            if (j < captured) std::copy(g.softmax.top, g.softmax.top + kQueries, g.tops + j / kTile * kQueries);
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        const Group& g = groups_[i];
        float share[kQueries];
        for (int64_t j = 0; j < captured; j += kTile) {
            shares(g.tops + j / kTile * kQueries, g.softmax, static_cast<float>(a_.heads), share);
            accumulate(g.kept + j * kQueries, std::min(kTile, captured - j), share, g.average[0] + j * kQueries);
        }
        shares(g.softmax.top, g.softmax, 1, share);
        std::fill(result_, result_ + kQueries * columns_, 0.0f);
        accumulate(g.out, columns_, share, result_);
        store(g, b, head);
    }
}

void Worker::edited(Group& g, int64_t b, int64_t head) {
    const int64_t text = a_.text, size = kQueries * columns_, carrier = a_.pixels == Pixels::borrow;
    float *const outs[] = {g.out, own_}, *const kept[] = {g.kept, kept_};
    Softmax words[2], pixels[2];
    float share[kQueries], total[kQueries] = {};
    for (int v = 0; v < 2; ++v) {
        const View& view = p_.rows[b].views[v];
        load(g, a_.q_rows[view.row], head);
        Tile t = p_.tile(view.row, head);
        t.q = g.q, t.values = view.values.data() + head * columns_ * text;
        t.panels = p_.panels, t.stride = kPanel * text;
        start(words[v], outs[v], size);
        add_tile(t, 0, text, words[v], kept[v], outs[v]);
        t.values = p_.values(a_.v_rows[b], head), t.panels = v == carrier ? p_.panels : 0, t.stride = kPanel * a_.m;
        start(pixels[v], pixels_, v == carrier ? size : 0);
        for (int64_t j = text, next; j < a_.m; j = next) {
            next = std::min((j + kTile) / kPanel * kPanel, a_.m);
            add_tile(t, j, next, pixels[v], weights_, pixels_);
        }
    }
    std::fill(result_, result_ + size, 0.0f);
    for (int v = 0; v < 2; ++v) {
        const Softmax all = join(words[v], pixels[v]);
        shares(words[v].top, all, 1, share);
        accumulate(outs[v], columns_, share, result_);
        weigh(kept[v], text, p_.rows[b].views[v].sums.data(), share, total);
        shares(words[v].top, all, static_cast<float>(a_.heads), share);
        if (p_.rows[b].captured) accumulate(kept[v], text, share, g.average[v]);
    }
    shares(pixels[carrier].top, join(words[carrier], pixels[carrier]), 1, share);
    if (a_.pixels == Pixels::rescale) rescale(total, pixels[carrier], share);
    if (text < a_.m) accumulate(pixels_, columns_, share, result_);
    store(g, b, head);
}

// heat += average @ probe
void Worker::emit(const Group& g, int64_t b) {
    const std::vector<View>& views = p_.rows[b].views;
    float* lanes = heat_ + kQueries * a_.columns;
    float* heat = a_.heat + (b * a_.n + g.first) * a_.columns;
    for (size_t v = 0; v < views.size(); ++v) {
        combine(views[v].probe, g.average[v], kQueries, lanes);
        transpose(lanes, kQueries, heat_, a_.columns, a_.columns, g.count);
        for (int64_t i = 0; i < g.count * a_.columns; ++i) heat[i] += heat_[i];
    }
}

void Worker::run(int64_t b, int64_t head, int64_t end, int64_t first, int64_t last) {
    const Row& row = p_.rows[b];
    int64_t count = 0;
    for (; first < last; first += kQueries) {
        Group& g = groups_[count++];
        g.first = first, g.count = std::min<int64_t>(kQueries, last - first);
        if (row.captured)
            for (float* average : g.average) std::fill(average, average + kQueries * a_.text, 0.0f);
    }
    for (; head < end; ++head) {
        if (!row.edited()) plain(b, head, count);
        for (int64_t i = 0; row.edited() && i < count; ++i) edited(groups_[i], b, head);
    }
    for (int64_t i = 0; row.captured && i < count; ++i) emit(groups_[i], b);
}

void attention(const Attention& a, int threads) {
    const int64_t rows = a.out.rows, groups = whole(a.n, kQueries) / kQueries;
    if (rows * a.heads * a.n * a.m * a.dim < kSerial) threads = 1;
    const Plan plan(a, threads);
    const bool near = a.heads * (plan.key_size + plan.value_size) <= kNear && rows * groups >= 8 * threads;
    const int64_t span = a.probe || near ? a.heads : 1, units = rows * a.heads / span;
    const int64_t together = std::clamp<int64_t>(units * groups / (8 * std::max(threads, 1)), 1, kGroups);
    const int64_t blocks = whole(groups, together) / together, block = together * kQueries;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Worker worker(plan);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < units * blocks; ++i) {
            const int64_t unit = i / blocks * span, first = i % blocks * block;
            worker.run(unit / a.heads, unit % a.heads, unit % a.heads + span, first, std::min(first + block, a.n));
        }
    }
}

}  // namespace pydiff
