// A picture in memory, channel by channel, its values in about [-1, 1].
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

struct Picture {
    int64_t channels, height, width;
    std::vector<float> values;

    Picture(int64_t c, int64_t h, int64_t w)
        : channels(c), height(h), width(w), values(static_cast<size_t>(c * h * w)) {}
};

// The same at another size, bilinear, corner pixels staying corner pixels.
Picture enlarged(const Picture& picture, int64_t height, int64_t width);

// A binary PPM of a picture of 3 channels, rounded to 8 bits. Throws std::runtime_error where it cannot be written.
void write_ppm(const std::filesystem::path& path, const Picture& picture);
