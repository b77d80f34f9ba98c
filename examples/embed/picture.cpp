#include "picture.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace {

// What a new pixel is made of: (1 - share) of an old one, share of the next.
struct Tap {
    int64_t first, second;
    float share;
};

std::vector<Tap> taps(int64_t n, int64_t m) {
    const float scale = m > 1 ? static_cast<float>(n - 1) / static_cast<float>(m - 1) : 0.0f;
    std::vector<Tap> made;
    for (int64_t i = 0; i < m; ++i) {
        const float place = scale * static_cast<float>(i);
        const int64_t first = std::min(static_cast<int64_t>(place), n - 1);
        made.push_back({first, std::min(first + 1, n - 1), place - static_cast<float>(first)});
    }
    return made;
}

}  // namespace

Picture enlarged(const Picture& picture, int64_t height, int64_t width) {
    Picture made(picture.channels, height, width);
    const std::vector<Tap> rows = taps(picture.height, height), columns = taps(picture.width, width);
    float* out = made.values.data();
    for (int64_t c = 0; c < picture.channels; ++c) {
        const float* plane = picture.values.data() + c * picture.height * picture.width;
        for (const Tap& row : rows) {
            const float *above = plane + row.first * picture.width, *below = plane + row.second * picture.width;
            for (const Tap& column : columns) {
                const float upper = (1 - column.share) * above[column.first] + column.share * above[column.second];
                const float lower = (1 - column.share) * below[column.first] + column.share * below[column.second];
                *out++ = (1 - row.share) * upper + row.share * lower;
            }
        }
    }
    return made;
}

void write_ppm(const std::filesystem::path& path, const Picture& picture) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    const int64_t plane = picture.height * picture.width;
    for (int64_t i = 0; i < plane; ++i)
        for (int64_t c = 0; c < picture.channels; ++c) {
            const float unit = std::clamp(picture.values[static_cast<size_t>(c * plane + i)] / 2 + 0.5f, 0.0f, 1.0f);
            file.put(static_cast<char>(std::nearbyint(unit * 255)));
        }
    if (!file.flush()) throw std::runtime_error(path.string() + " cannot be written");
}
