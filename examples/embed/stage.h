// One stage of the cascade: its network and its steps, from noise to a picture.
#pragma once

#include <cstdint>
#include <filesystem>

#include "loop.h"
#include "network.h"
#include "picture.h"
#include "pydiff.h"
#include "steps.h"

class Stage {
   public:
    // Throws std::runtime_error, naming the folder, for a stage that this program does not run.
    Stage(Ort::Env& env, const std::filesystem::path& folder, int threads);

    int64_t height() const { return steps_.height; }
    int64_t width() const { return steps_.width; }

    // before: the picture of the stage before, null for the first. text: states (2, T, D) of the prompt and of no
    // prompt, needed where the stage reads them. Throws std::runtime_error where one is missing.
    Picture run(pydiff::Generator& noise, const Picture* before, const Tensor* text);

   private:
    Steps steps_;
    Network unet_;
    int threads_;

    Picture noised(const Picture& before, pydiff::Generator& noise) const;
    std::vector<float> predicted(const Picture& x, const Row& row, const Branches& branches,
                                 const Picture* beside, const Tensor* text);
};
