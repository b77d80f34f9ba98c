// A network as a list of steps over memory that is planned before: nothing is allocated or looked up while it runs.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace pydiff {

class Program {
public:
    using Step = std::function<void(int threads)>;
    void add(Step step) { steps_.push_back(std::move(step)); }
    int64_t size() const { return static_cast<int64_t>(steps_.size()); }
    void run(int64_t first, int64_t last, int threads) const {
        for (int64_t i = first; i < last; ++i) steps_[i](threads);
    }

private:
    std::vector<Step> steps_;
};

}  // namespace pydiff
