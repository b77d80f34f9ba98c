// Pixels that look alike become one before a layer of attention, and what it makes of that one is copied back to each:
// see pydiff/nn/merge.py. Every row of pictures is matched alone.
#pragma once

#include "normalise.h"

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

// Which of the N pixels of each picture stand together at one of the M places that are left. Those at place m are
// members[starts[m]] up to members[starts[m + 1]], the one that stands there itself first.
struct Matches {
    Grid grid;
    int64_t left;                       // M
    int32_t *place, *starts, *members;  // (images, N), (images, M + 2), (images, N)

    int64_t pixels() const { return grid.height * grid.width; }
    int64_t across() const { return (grid.width + 1) / 2; }  // destinations of a line
    int64_t destinations() const { return (grid.height + 1) / 2 * across(); }
    int64_t sources() const { return pixels() - destinations(); }
};

// The matches of x.
struct Match {
    Picture x;
    Matches to;
    void* packed;              // (images, panels, channels, 64), of x's type: the destinations
    float *inverse, *best;     // (images, panels, 64), 1 / length of each; (images, S), cosines of the sources with
    int32_t *nearest, *order;  // theirs; (images, S): the destination of each source, and the merged sources first
};

// out (images, 1, M, channels): the means of the pixels of x that stand together.
struct Merge {
    Picture x, out;
    Matches matches;
};

// out = (x at each pixel's place + residual) scale.
struct Unmerge {
    Picture x, out;
    const void* residual;  // may be null
    Place beside;
    float scale;
    Matches matches;
};

void match(const Match& m, int threads);
void merge(const Merge& m, int threads);
void unmerge(const Unmerge& u, int threads);

}  // namespace pydiff
#endif
