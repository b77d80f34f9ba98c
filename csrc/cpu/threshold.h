#pragma once

#include <cstdint>
#include <vector>

namespace pydiff {

// How many |values| are <= 1, < max_value, and not finite.
struct Count {
    int64_t low = 0, high = 0, bad = 0;
};

Count count(const float* values, int64_t m, float max_value);

// counts: of each chunk of kChunk values.
float dynamic_range(const float* values, int64_t n, const std::vector<Count>& counts, double percentile,
                    float max_value, int threads);

}  // namespace pydiff
