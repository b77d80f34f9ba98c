// What an exported folder says of one stage's default run: steps.json, read into plain values.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "pydiff.h"

// x and D of the evaluation `back` evaluations before a row's own, c_x x + c_denoised D.
struct Earlier {
    int64_t back;
    float c_x, c_denoised;
};

// One step of the loop: what pydiff/diffusion/rows.py says of a Row.
struct Row {
    float t, input_scale;
    bool evaluate, draws;
    std::vector<double> weights;  // of [prompt, no prompt]; one that is 0 is not evaluated
    float alpha, sigma, c_x, c_denoised, c_raw, c_previous, c_noise;
    std::optional<std::array<double, 2>> log_variance;
    std::vector<Earlier> history;
};

// The level at which a super-resolution stage's low-res picture is noised: alpha picture + sigma noise.
struct Noising {
    float alpha, sigma;
    int64_t level;
};

struct Steps {
    int64_t channels, height, width;  // of x
    float initial_scale;
    pydiff::Prediction prediction;
    pydiff::Limit limit;
    double percentile, rescale;
    float max_value;
    std::vector<Row> rows;
    std::optional<Noising> noising;
};

// Throws std::runtime_error that names the file for what is missing in it, and for a stage that this program does not
// run: one that walks through an autoencoder's latents, or is given another picture than the low-res one.
Steps read_steps(const std::filesystem::path& path);
