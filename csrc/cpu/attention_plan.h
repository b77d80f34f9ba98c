// What all queries of a call of attention share: keys and values in panels, biases, mixes of values, probes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "../pydiff.h"
#include "attention_tile.h"

namespace pydiff {

// Uninitialised floats, taken in pieces that start on a cache line.
class Floats {
public:
    Floats(int64_t size, int64_t pieces) : memory_(new float[size + 16 * (pieces + 1)]) {
        at_ = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64 / sizeof(float);
    }
    float* take(int64_t size) { return std::exchange(at_, at_ + whole(size, 16)); }

private:
    std::unique_ptr<float[]> memory_;
    float* at_;
};

// An attention to text that is part of a row: E = sum over its views of A[row] @ mix.
struct View {
    int64_t row;
    Lists mix;                  // of each text column: where its share goes
    std::vector<float> sums;    // (text,): of the rows of mix
    Lists probe;                // of each column of mix @ probe: the text columns that it reads
    std::vector<float> values;  // (heads, panels, text, 8): mix @ v
};

struct Row {
    std::vector<View> views;  // its own; of an edited row also its source's. Of a plain row only `probe` is filled
    bool captured;
    bool edited() const { return views.size() > 1; }
};

// Numbers (count, dim) as float32: where they lie, or widened into `room`.
struct Numbers {
    const float* at;
    int64_t stride;
};
Numbers read(const Attention& a, const Heads& x, int64_t row, int64_t head, int64_t first, int64_t count, float* room);

class Plan {
public:
    Plan(const Attention& given, int threads);

    const Attention& a;
    const int64_t panels, key_size, value_size;  // of columns of values; floats of a packed head
    std::vector<Row> rows;

    // A tile without its queries and values.
    Tile tile(int64_t row, int64_t head) const;
    const float* values(int64_t row, int64_t head) const { return values_ + (row * a.heads + head) * value_size; }

private:
    Floats memory_;
    float *keys_, *values_, *biases_;

    Row make_row(int64_t b) const;
    View make_view(int64_t b, int64_t row) const;
    void pack_keys(int64_t row, int64_t head, float* out) const;
    void pack_values(int64_t row, int64_t head, float* out) const;
    void mix_values(int64_t b, int64_t head);
};

}  // namespace pydiff
