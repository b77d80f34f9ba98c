// What all queries of a call of attention share: keys and values in panels, biases, edits, probes.
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

struct Row {
    Lists probe;                // of each of its columns: the columns of text that it reads
    std::vector<int64_t> read;  // columns of text that any of them reads: none of a row that is not captured
    Lists transfer;             // of each column of text: the source's columns that lend to it
    const float* keep;          // (text,)
};

// The rows that read one row's map: itself, when it is not edited, and those that borrow from it.
struct Family {
    int64_t source;
    bool plain;
    std::vector<int64_t> borrowers;
};

// Words (count, size) where they lie, or in `room`.
struct Words {
    const float* at;
    int64_t stride;
};

class Plan {
public:
    explicit Plan(const Attention& given);

    const Attention& a;
    const bool pairs;                                  // of bfloat16 in a word
    const int64_t words, panels, key_size, value_size;  // of a query or key; of columns of values; of a packed head
    int64_t largest = 1;                               // rows of a family
    std::vector<Row> rows;
    std::vector<Family> families;

    // Heads of keys and values to be packed before anything else, and how: on any thread.
    int64_t packs() const { return (a.k.rows + a.v.rows) * a.heads; }
    void pack(int64_t i);

    Words read(const Heads& x, int64_t row, int64_t head, int64_t first, int64_t count, float* room) const;
    // A row's tile, its queries left out.
    Tile tile(int64_t row, int64_t head) const;
    const float* values(int64_t row, int64_t head) const {
        return values_ + (a.v_rows[row] * a.heads + head) * value_size;
    }

private:
    Floats memory_;
    float *keys_, *values_, *biases_;

    Row make_row(int64_t b) const;
    void make_families();
    void pack_keys(int64_t row, int64_t head, float* out) const;
    void pack_values(int64_t row, int64_t head, float* out) const;
    void pack_value_pairs(int64_t row, int64_t head, float* out) const;
};

}  // namespace pydiff
