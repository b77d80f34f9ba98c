#include "stage.h"

#include <optional>
#include <stdexcept>

// Some rows of a tensor of floats, one after the other.
static Tensor rows_of(const Tensor& tensor, const Branches& rows) {
    const auto& values = std::get<std::vector<float>>(tensor.values);
    const size_t each = values.size() / static_cast<size_t>(tensor.shape.front());
    std::vector<float> made;
    for (const size_t row : rows) made.insert(made.end(), &values[row * each], &values[row * each] + each);
    std::vector<int64_t> shape = tensor.shape;
    shape.front() = static_cast<int64_t>(rows.size());
    return {shape, std::move(made)};
}

Stage::Stage(Ort::Env& env, const std::filesystem::path& folder, int threads)
    : steps_(read_steps(folder / "steps.json")), unet_(env, folder / "unet.onnx", threads), threads_(threads) {
    if (unet_.takes("text_embeds")) throw std::runtime_error(folder.string() + " reads pooled text: not run here");
    if (unet_.takes("class_labels") && !steps_.noising)
        throw std::runtime_error(folder.string() + " is told classes: not run here");
}

// Noise conditioning augmentation: the low-res picture enlarged, then noised to the level that the network is told.
Picture Stage::noised(const Picture& before, pydiff::Generator& noise) const {
    Picture large = enlarged(before, steps_.height, steps_.width);
    const Picture added = drawn(steps_, noise);
    for (size_t i = 0; i < large.values.size(); ++i)
        large.values[i] = steps_.noising->alpha * large.values[i] + steps_.noising->sigma * added.values[i];
    return large;
}

std::vector<float> Stage::predicted(const Picture& x, const Row& row, const Branches& branches,
                                    const Picture* beside, const Tensor* text) {
    const auto count = static_cast<int64_t>(branches.size());
    std::vector<float> sample;  // branch by branch x, and what stands beside it in the channels
    for (size_t branch = 0; branch < branches.size(); ++branch) {
        for (const float value : x.values) sample.push_back(value * row.input_scale);
        if (beside) sample.insert(sample.end(), beside->values.begin(), beside->values.end());
    }
    const int64_t channels = x.channels + (beside ? beside->channels : 0);
    Inputs inputs{
        {"sample", {{count, channels, x.height, x.width}, std::move(sample)}},
        {"timestep", {{count}, std::vector<float>(branches.size(), row.t)}},
    };
    if (unet_.takes("encoder_hidden_states")) inputs["encoder_hidden_states"] = rows_of(*text, branches);
    if (unet_.takes("encoder_attention_mask"))  // padding is masked in the text encoder alone
        inputs["encoder_attention_mask"] = {{count, text->shape[1]},
                                            std::vector<float>(static_cast<size_t>(count * text->shape[1]), 1.0f)};
    if (unet_.takes("class_labels"))
        inputs["class_labels"] = unet_.filled("class_labels", count, steps_.noising->level);
    return unet_(inputs, "out_sample");
}

Picture Stage::run(pydiff::Generator& noise, const Picture* before, const Tensor* text) {
    if (unet_.takes("encoder_hidden_states") && !text)
        throw std::runtime_error("a stage reads text, but the model has no text encoder");
    if (steps_.noising && !before) throw std::runtime_error("a stage enlarges a picture, but is the first");
    Picture x = drawn(steps_, noise);
    for (float& value : x.values) value *= steps_.initial_scale;
    std::optional<Picture> beside;
    if (steps_.noising) beside = noised(*before, noise);
    const Picture* low = beside ? &*beside : nullptr;
    const auto predict = [&](const Picture& now, const Row& row, const Branches& branches) {
        return predicted(now, row, branches, low, text);
    };
    return walk(steps_, std::move(x), noise, predict, threads_);
}
