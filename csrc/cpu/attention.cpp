// Attention that gives out its maps and takes edits of them, in one pass that forms no map.
//
// Queries meet a head's keys in tiles, their softmax kept up to date as they come (Milakov and Gimelshein 2018; Dao et
// al. 2022). Weights of the text's keys stay in cache until their sum is known: then they are lent to the rows that
// borrow them, and their average over the heads meets the probe once (see pydiff/ops/attention.py).
#include <algorithm>

#include "../pydiff.h"
#include "attention_plan.h"
#include "attention_tile.h"

namespace pydiff {

constexpr int64_t kSerial = 1 << 18;  // multiplications below which starting threads costs more than they save
constexpr int64_t kNear = 1 << 16;    // words of keys and values that stay in the second-level cache

// One thread's buffers, and what it does with kQueries queries, or the last of them.
class Worker {
public:
    explicit Worker(const Plan& plan);
    // Queries [first, first + count) of the heads [head, end) of a family.
    void run(const Family& f, int64_t head, int64_t end, int64_t first, int64_t count);

private:
    const Plan& p_;
    const Attention& a_;
    const int64_t columns_, text_;  // of a head's output, and the text's, in whole panels and tiles
    Floats memory_;
    float *q_, *room_, *weights_, *out_, *pixels_;  // (words, 32), (32, dim), (tile, 32), (columns, 32) twice
    float *lent_, *own_, *tops_;  // weights of text (text, 32), of a source and a borrower; tops of tiles (tiles, 32)
    float *average_, *heat_;      // over heads, of weights of text (rows of a family, text, 32); (2 columns, 32)
    int64_t first_, count_;

    void load(int64_t row, int64_t head);
    void store(int64_t b, int64_t head);
    void collect(int64_t b, const float* weights, const float* share, int64_t from, int64_t to, float* average);
    Softmax attend(int64_t b, int64_t head, bool plain, bool lends, float* average);
    void borrow(int64_t b, const Softmax& source, int64_t s, int64_t head, float* average);
    Softmax attend_pixels(int64_t row, int64_t head, const float* values);
    void emit(int64_t b, const float* average);
};

static int64_t scratch(const Plan& p, int64_t columns, int64_t text) {
    const int64_t rows = p.words + p.a.dim + kTile + kPanel + 2 * columns + 2 * text + text / kTile;
    return kQueries * (rows + p.largest * p.a.text + 2 * p.a.columns);
}

Worker::Worker(const Plan& plan)
    : p_(plan), a_(plan.a), columns_(plan.panels * kPanel), text_(whole(a_.text, kTile)),
      memory_(scratch(plan, columns_, text_), 10) {
    const auto take = [&](int64_t rows) { return memory_.take(kQueries * rows); };
    q_ = take(p_.words), room_ = take(a_.dim), weights_ = take(kTile + kPanel), out_ = take(columns_);
    pixels_ = take(columns_), lent_ = take(text_), own_ = take(text_), tops_ = take(text_ / kTile);
    average_ = take(p_.largest * a_.text), heat_ = take(2 * a_.columns);
}

void Worker::load(int64_t row, int64_t head) {
    if (count_ < kQueries) std::fill(q_, q_ + kQueries * p_.words, 0.0f);
    const Words q = p_.read(a_.q, a_.q_rows[row], head, first_, count_, room_);
    transpose(q.at, q.stride, q_, kQueries, count_, p_.words);
}

void Worker::store(int64_t b, int64_t head) {
    const int64_t at = b * a_.out.row + head * a_.out.head + first_ * a_.out.item;
    if (!a_.bfloat16) {
        transpose(out_, kQueries, static_cast<float*>(a_.out.at) + at, a_.out.item, a_.dim, count_);
        return;
    }
    transpose(out_, kQueries, room_, a_.dim, a_.dim, count_);
    for (int64_t i = 0; i < count_; ++i)
        narrow(room_ + i * a_.dim, static_cast<uint16_t*>(a_.out.at) + at + i * a_.out.item, a_.dim);
}

// average += weights share, of the text [from, to) that row b's probe reads
void Worker::collect(int64_t b, const float* weights, const float* share, int64_t from, int64_t to, float* average) {
    for (const int64_t t : p_.rows[b].read)
        if (t >= from && t < to) accumulate(weights + t * kQueries, 1, share, average + t * kQueries);
}

// A row as it is. Its shares of text are left in lent_ when it lends them.
Softmax Worker::attend(int64_t b, int64_t head, bool plain, bool lends, float* average) {
    const int64_t kept = lends || !p_.rows[b].read.empty() ? a_.text : 0;
    Tile t = p_.tile(b, head);
    t.q = q_, t.values = p_.values(b, head), t.panels = plain ? p_.panels : 0;
    Softmax s;
    float share[kQueries];
    load(b, head);
    start(s, t.scale);
    std::fill(out_, out_ + kQueries * columns_, 0.0f);
    for (int64_t j = 0; j < a_.m; j += kTile) {
        const int64_t next = std::min(j + kTile, a_.m);
        float* weights = j < kept ? lent_ + j * kQueries : weights_;
        add_scores(t, j, next, s, weights);
        add_values(t, j, next, weights, s.ratio, out_);
        if (j < kept) std::copy(s.top, s.top + kQueries, tops_ + j / kTile * kQueries);
    }
    for (int64_t j = 0; j < kept; j += kTile) {
        const float* top = tops_ + j / kTile * kQueries;
        const int64_t next = std::min(j + kTile, kept);
        shares(top, s, static_cast<float>(a_.heads), share);
        if (plain) collect(b, lent_, share, j, next, average);
        shares(top, s, 1, share);
        if (lends) multiply(lent_ + j * kQueries, next - j, share);
    }
    shares(s.top, s, 1, share);
    multiply(out_, columns_, share);
    if (plain) store(b, head);
    return s;
}

// The pixels' part of a row, into pixels_ where there are values.
Softmax Worker::attend_pixels(int64_t row, int64_t head, const float* values) {
    Tile t = p_.tile(row, head);
    t.q = q_, t.values = values, t.panels = values ? p_.panels : 0;
    Softmax s;
    start(s, t.scale);
    if (values) std::fill(pixels_, pixels_ + kQueries * columns_, 0.0f);
    for (int64_t j = a_.text, next; j < a_.m; j = next) {
        next = std::min((j + kTile) / kPanel * kPanel, a_.m);
        add_scores(t, j, next, s, weights_);
        add_values(t, j, next, weights_, s.ratio, pixels_);
    }
    return s;
}

// Row b, edited, its source s having lent its shares.
void Worker::borrow(int64_t b, const Softmax& source, int64_t s, int64_t head, float* average) {
    const float* values = p_.values(b, head);
    const bool borrows = a_.pixels == Pixels::borrow;
    float share[kQueries], total[kQueries] = {}, zeros[kQueries] = {}, part[kQueries];
    Softmax carrier, words;
    if (borrows && a_.text < a_.m) {
        load(s, head);
        carrier = attend_pixels(s, head, values);
    }
    load(b, head);
    Tile t = p_.tile(b, head);
    t.q = q_, t.values = values, t.panels = p_.panels;
    start(words, t.scale);
    add_scores(t, 0, a_.text, words, own_);
    const Softmax pixels = attend_pixels(b, head, borrows ? nullptr : values), all = join(words, pixels);
    shares(words.top, all, 1, share);
    edit(p_.rows[b].transfer, lent_, share, p_.rows[b].keep, own_, total);
    std::fill(part, part + kQueries, 1 / static_cast<float>(a_.heads));
    collect(b, own_, part, 0, a_.text, average);
    std::fill(out_, out_ + kQueries * columns_, 0.0f);
    add_values(t, 0, a_.text, own_, zeros, out_);
    if (a_.text < a_.m) {
        const Softmax& from = borrows ? carrier : pixels;
        shares(from.top, borrows ? source : all, 1, share);
        if (a_.pixels == Pixels::rescale) rescale(total, pixels, share);
        accumulate(pixels_, columns_, share, out_);
    }
    store(b, head);
}

// heat += average @ probe
void Worker::emit(int64_t b, const float* average) {
    float *lanes = heat_ + kQueries * a_.columns, *heat = a_.heat + (b * a_.n + first_) * a_.columns;
    combine(p_.rows[b].probe, average, lanes);
    transpose(lanes, kQueries, heat_, a_.columns, a_.columns, count_);
    for (int64_t i = 0; i < count_ * a_.columns; ++i) heat[i] += heat_[i];
}

void Worker::run(const Family& f, int64_t head, int64_t end, int64_t first, int64_t count) {
    const int64_t size = kQueries * a_.text;
    first_ = first, count_ = count;
    if (a_.probe) std::fill(average_, average_ + p_.largest * size, 0.0f);
    for (; head < end; ++head) {
        const Softmax source = attend(f.source, head, f.plain, !f.borrowers.empty(), average_);
        float* average = average_ + f.plain * size;
        for (const int64_t b : f.borrowers) borrow(b, source, f.source, head, average), average += size;
    }
    float* average = average_;
    const auto finish = [&](int64_t b) {
        if (!p_.rows[b].read.empty()) emit(b, average);
        average += size;
    };
    if (f.plain) finish(f.source);
    for (const int64_t b : f.borrowers) finish(b);
}

void attention(const Attention& a, int threads) {
    const int64_t blocks = whole(a.n, kQueries) / kQueries;
    if (a.out.rows * a.heads * a.n * a.m * a.dim < kSerial) threads = 1;
    Plan plan(a);
    const int64_t families = static_cast<int64_t>(plan.families.size());
    const bool near = a.heads * (plan.key_size + plan.value_size) <= kNear && families * blocks >= 8 * threads;
    const int64_t span = a.probe || near ? a.heads : 1, units = families * a.heads / span;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < plan.packs(); ++i) plan.pack(i);
        Worker worker(plan);
#pragma omp for schedule(dynamic) nowait
        for (int64_t i = 0; i < units * blocks; ++i) {
            const int64_t head = i / blocks * span % a.heads, first = i % blocks * kQueries;
            worker.run(plan.families[i / blocks * span / a.heads], head, head + span, first,
                       std::min<int64_t>(kQueries, a.n - first));
        }
    }
}

}  // namespace pydiff
