// Prints of steps.json what the example reads: rows, evaluations, the sum of c_denoised, guidance weights of the first
// row, and the level of the low-res picture (-1 where there is none).
#include <cstdio>

#include "steps.h"

int main(int, char** words) {
    const Steps steps = read_steps(words[1]);
    size_t evaluated = 0;
    double denoised = 0;
    for (const Row& row : steps.rows) evaluated += row.evaluate, denoised += row.c_denoised;
    std::printf("%zu %zu %.4f", steps.rows.size(), evaluated, denoised);
    for (const double weight : steps.rows.front().weights) std::printf(" %g", weight);
    std::printf(" %lld\n", steps.noising ? static_cast<long long>(steps.noising->level) : -1LL);
}
