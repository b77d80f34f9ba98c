// The one loop, as in pydiff/diffusion/loop.py: row by row a prediction, and pydiff's guided_step.
#pragma once

#include <functional>
#include <vector>

#include "picture.h"
#include "pydiff.h"
#include "steps.h"

// The predictions of the network for some branches of guidance, one after the other, of x as it is.
using Branches = std::vector<size_t>;
using Predict = std::function<std::vector<float>(const Picture& x, const Row& row, const Branches& branches)>;

// Walk all rows from x, which is at the level of the first; noise is drawn in the order of the rows.
Picture walk(const Steps& steps, Picture x, pydiff::Generator& noise, const Predict& predict, int threads);

// Standard normal noise of the shape of x.
Picture drawn(const Steps& steps, pydiff::Generator& noise);
