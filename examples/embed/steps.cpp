#include "steps.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "json.h"

namespace {

float real(const Json& value) { return static_cast<float>(value.number()); }
int64_t whole(const Json& value) { return static_cast<int64_t>(value.number()); }

// The enumerator of that name, in the order in which the core counts them.
template <typename Kind, size_t n>
Kind one_of(const Json& value, const std::array<std::string_view, n>& names) {
    const auto found = std::find(names.begin(), names.end(), value.text());
    if (found == names.end()) throw std::runtime_error(value.text() + " is unknown here");
    return static_cast<Kind>(found - names.begin());
}

Row row(const Json& said) {
    Row made{};
    made.t = real(said["t"]), made.input_scale = real(said["input_scale"]);
    made.evaluate = said["evaluate"].boolean(), made.draws = said["draws"].boolean();
    made.weights = said["weights"].numbers();
    if (made.weights.empty() || made.weights.size() > 2)
        throw std::runtime_error("guidance by more than a prompt and no prompt is not run here");
    made.alpha = real(said["alpha"]), made.sigma = real(said["sigma"]);
    made.c_x = real(said["c_x"]), made.c_denoised = real(said["c_denoised"]), made.c_raw = real(said["c_raw"]);
    made.c_previous = real(said["c_previous"]), made.c_noise = real(said["c_noise"]);
    if (said.has("log_variance")) {
        const std::vector<double> ends = said["log_variance"].numbers();
        made.log_variance = {ends.at(0), ends.at(1)};
    }
    for (const Json& earlier : said["history"].list())
        made.history.push_back({whole(earlier["back"]), real(earlier["c_x"]), real(earlier["c_denoised"])});
    return made;
}

Steps steps(const Json& said) {
    const std::string& kind = said["kind"].text();
    if (kind != "plain" && kind != "upscale") throw std::runtime_error("a stage of kind " + kind + " is not run here");
    if (said["linear_variance"].boolean()) throw std::runtime_error("variance as itself is not read here");
    Steps made{};
    const std::vector<double> shape = said["shape"].numbers();
    made.channels = static_cast<int64_t>(shape.at(0));
    made.height = static_cast<int64_t>(shape.at(1)), made.width = static_cast<int64_t>(shape.at(2));
    if (made.channels != 3) throw std::runtime_error("a stage that walks through latents is not run here");
    made.initial_scale = real(said["initial_scale"]);
    made.prediction = one_of<pydiff::Prediction, 3>(said["prediction_type"], {"epsilon", "v_prediction", "sample"});
    const Json& threshold = said["threshold"];
    made.limit = one_of<pydiff::Limit, 3>(threshold["kind"], {"none", "static", "dynamic"});
    made.percentile = threshold["percentile"].number(), made.max_value = std::numeric_limits<float>::infinity();
    if (threshold.has("max_value")) made.max_value = real(threshold["max_value"]);
    made.rescale = said["guidance_rescale"].number();
    for (const Json& one : said["rows"].list()) made.rows.push_back(row(one));
    if (said.has("low_res")) {
        const Json& level = said["low_res"];
        made.noising = Noising{real(level["alpha"]), real(level["sigma"]), whole(level["noise_level"])};
    }
    if (kind == "upscale" && !made.noising) throw std::runtime_error("the low-res picture has no noise level");
    return made;
}

}  // namespace

Steps read_steps(const std::filesystem::path& path) {
    try {
        return steps(Json::read(path));
    } catch (const std::exception& error) {
        throw std::runtime_error(path.string() + ": " + error.what());
    }
}
