// embed MODEL TOKENS PICTURE: a picture of a prompt from an exported model, without Python. See README.md.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "json.h"
#include "network.h"
#include "picture.h"
#include "pydiff.h"
#include "stage.h"

namespace fs = std::filesystem;

namespace {

constexpr const char* kUsage =
    "usage: embed MODEL TOKENS PICTURE [--seed N] [--size N] [--threads N]\n"
    "  MODEL    a folder that `pydiff export` wrote\n"
    "  TOKENS   the prompt's tokens: python examples/embed/tokens.py MODEL PROMPT > tokens.json\n"
    "  PICTURE  a PPM file to write\n"
    "  --seed   of the noise, 0 to 2^63 - 1; the same picture as Python's (default 0)\n"
    "  --size   of the picture, one of the model's stages (default: the model's own)\n"
    "  --threads  that compute (default: one per core)\n";

struct Options {
    fs::path model, tokens, picture;
    uint64_t seed = 0;
    int64_t size = 0;
    int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
};

template <typename Number>
Number number(const std::string& name, const char* text) {
    Number made{};
    const char* end = text + std::strlen(text);
    const auto [at, error] = std::from_chars(text, end, made);
    if (error != std::errc() || at != end || made < 0)
        throw std::invalid_argument(name + " is " + text + "; expected a number\n" + kUsage);
    return made;
}

Options options(int count, char** words) {
    Options made;
    fs::path* places[] = {&made.model, &made.tokens, &made.picture};
    int place = 0;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const bool option = word.rfind("--", 0) == 0, last = i + 1 == count;
        if (option && !last && word == "--seed") {
            made.seed = number<uint64_t>(word, words[++i]);
        } else if (option && !last && word == "--size") {
            made.size = number<int64_t>(word, words[++i]);
        } else if (option && !last && word == "--threads") {
            made.threads = std::max(1, number<int>(word, words[++i]));
        } else if (!option && place < 3) {
            *places[place++] = word;
        } else {
            throw std::invalid_argument(word + " is not expected here\n" + kUsage);
        }
    }
    if (place < 3) throw std::invalid_argument(kUsage);
    return made;
}

// Two rows of whole numbers, equally long, as one tensor.
Tensor integers(const Json& rows) {
    std::vector<int64_t> values;
    const auto count = static_cast<int64_t>(rows.list().size());
    for (const Json& row : rows.list())
        for (const double value : row.numbers()) values.push_back(static_cast<int64_t>(value));
    const auto each = static_cast<int64_t>(rows.list().at(0).list().size());
    if (count != 2) throw std::runtime_error("expected two rows of tokens, of the prompt and of no prompt");
    if (each * count != static_cast<int64_t>(values.size()))
        throw std::runtime_error("rows of tokens differ in length");
    return {{count, each}, std::move(values)};
}

// The states of the prompt and of no prompt, from the first text encoder of the model; none where it has none.
std::optional<Tensor> encoded(Ort::Env& env, const Options& given, const std::vector<fs::path>& stages) {
    const auto has = [](const fs::path& stage) { return fs::exists(stage / "text_encoder.onnx"); };
    const auto found = std::find_if(stages.begin(), stages.end(), has);
    if (found == stages.end()) return std::nullopt;
    const Json tokens = Json::read(given.tokens);
    Network encoder(env, *found / "text_encoder.onnx", given.threads);
    Inputs inputs{{"input_ids", integers(tokens["input_ids"])}};
    if (encoder.takes("attention_mask")) inputs["attention_mask"] = integers(tokens["attention_mask"]);
    Tensor states;
    states.values = encoder(inputs, "states", &states.shape);
    return states;
}

Picture generated(Ort::Env& env, const Options& given) {
    const Json manifest = Json::read(given.model / "manifest.json");
    if (manifest["format"].number() != 1) throw std::runtime_error("this program reads folders of format 1");
    int64_t wanted = given.size;
    if (!wanted && manifest.has("default_size")) wanted = static_cast<int64_t>(manifest["default_size"].number());
    std::vector<fs::path> stages;
    for (const Json& name : manifest["stages"].list()) stages.push_back(given.model / name.text());
    const std::optional<Tensor> text = encoded(env, given, stages);
    pydiff::Generator noise(given.seed);
    std::optional<Picture> picture;
    for (const fs::path& folder : stages) {
        Stage stage(env, folder, given.threads);
        std::cerr << folder.filename().string() << ": " << stage.width() << "x" << stage.height() << std::endl;
        picture = stage.run(noise, picture ? &*picture : nullptr, text ? &*text : nullptr);
        if (std::max(stage.width(), stage.height()) == wanted) return *picture;
    }
    if (given.size || !picture) throw std::runtime_error("no stage makes a picture of size " + std::to_string(wanted));
    return *picture;
}

}  // namespace

int main(int count, char** words) {
    try {
        const Options given = options(count, words);
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "embed");
        write_ppm(given.picture, generated(env, given));
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "embed: " << error.what() << std::endl;
        return 1;
    }
}
