#include "loop.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <stdexcept>
#include <utility>

namespace {

using Past = std::deque<std::pair<Picture, Picture>>;  // x and D of earlier evaluations, newest first

// sum c_x x + c_denoised D
Picture recalled(const std::vector<Earlier>& history, const Past& past) {
    const Picture& newest = past.front().first;
    Picture made(newest.channels, newest.height, newest.width);
    for (const Earlier& earlier : history) {
        const auto& [x, denoised] = past.at(static_cast<size_t>(earlier.back - 1));
        for (size_t i = 0; i < made.values.size(); ++i)
            made.values[i] += earlier.c_x * x.values[i] + earlier.c_denoised * denoised.values[i];
    }
    return made;
}

size_t memory(const Steps& steps) {
    int64_t most = 1;  // D_previous
    for (const Row& row : steps.rows)
        for (const Earlier& earlier : row.history) most = std::max(most, earlier.back);
    return static_cast<size_t>(most);
}

// The branches that a row evaluates: branch 0 also where more of it is read than its prediction.
Branches active(const Steps& steps, const Row& row) {
    const std::vector<double>& weights = row.weights;
    Branches made;
    for (size_t branch = 0; branch < weights.size(); ++branch)
        if (weights[branch] != 0 || (branch == 0 && (row.log_variance || steps.rescale > 0))) made.push_back(branch);
    return made;
}

// All of a step but its arrays.
pydiff::GuidedStep step_of(const Steps& steps, const Row& row, const Branches& branches) {
    pydiff::GuidedStep s{};
    s.batch = 1, s.branches = static_cast<int>(branches.size());
    for (size_t r = 0; r < branches.size(); ++r)
        s.weights[r] = static_cast<float>(row.weights[branches[r]]);
    s.alpha = row.alpha, s.sigma = row.sigma;
    s.c_x = row.c_x, s.c_denoised = row.c_denoised, s.c_raw = row.c_raw;
    s.c_previous = row.c_previous, s.c_noise = row.c_noise;
    if (row.log_variance) {  // exp((f high + (1 - f) low) / 2), f = (v + 1) / 2
        const auto [low, high] = *row.log_variance;
        s.learned = true;
        s.log_std = static_cast<float>((low + high) / 4), s.log_std_slope = static_cast<float>((high - low) / 4);
    }
    s.prediction = steps.prediction, s.limit = steps.limit;
    s.percentile = steps.percentile, s.max_value = steps.max_value, s.rescale = steps.rescale;
    return s;
}

// A row that evaluates nothing: c_x x + c_noise noise.
void renoise(const Row& row, const std::optional<Picture>& noise, Picture& x) {
    for (size_t i = 0; i < x.values.size(); ++i)
        x.values[i] = row.c_x * x.values[i] + (noise ? row.c_noise * noise->values[i] : 0.0f);
}

}  // namespace

Picture drawn(const Steps& steps, pydiff::Generator& noise) {
    Picture made(steps.channels, steps.height, steps.width);
    noise.normal(made.values.data(), static_cast<int64_t>(made.values.size()));
    return made;
}

Picture walk(const Steps& steps, Picture x, pydiff::Generator& noise, const Predict& predict, int threads) {
    const size_t remembered = memory(steps);
    Past past;
    for (const Row& row : steps.rows) {
        const Branches branches = row.evaluate ? active(steps, row) : Branches{};
        const std::vector<float> predictions = row.evaluate ? predict(x, row, branches) : std::vector<float>{};
        std::optional<Picture> draw, previous;
        if (row.draws) draw = drawn(steps, noise);
        if (!row.evaluate) {
            renoise(row, draw, x);
            continue;
        }
        if (row.c_previous != 0) previous = row.history.empty() ? past.at(0).second : recalled(row.history, past);
        Picture next(x.channels, x.height, x.width), denoised = next;
        pydiff::GuidedStep s = step_of(steps, row, branches);
        s.x = x.values.data(), s.predictions = predictions.data();
        s.n = static_cast<int64_t>(x.values.size());
        s.stride = static_cast<int64_t>(predictions.size() / branches.size());
        if (s.stride != 2 * s.n && (s.stride != s.n || s.learned))
            throw std::runtime_error("the network's predictions are not of the shape of its steps");
        s.previous = previous ? previous->values.data() : nullptr;
        s.noise = draw && row.c_noise != 0 ? draw->values.data() : nullptr;
        s.x_next = next.values.data(), s.denoised = denoised.values.data();
        pydiff::guided_step(s, threads);
        past.emplace_front(std::exchange(x, std::move(next)), std::move(denoised));
        if (past.size() > remembered) past.pop_back();
    }
    return x;
}
