#include "network.h"

#include <functional>
#include <numeric>

static Ort::SessionOptions options(int threads) {
    Ort::SessionOptions made;
    made.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    made.SetIntraOpNumThreads(threads);
    made.SetInterOpNumThreads(1);
    return made;
}

Network::Network(Ort::Env& env, const std::filesystem::path& path, int threads)
    : session_(env, path.c_str(), options(threads)) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
        const Ort::TypeInfo type = session_.GetInputTypeInfo(i);
        types_[session_.GetInputNameAllocated(i, allocator).get()] =
            type.GetTensorTypeAndShapeInfo().GetElementType();
    }
}

Tensor Network::filled(const std::string& name, int64_t n, int64_t value) const {
    const auto count = static_cast<size_t>(n);
    if (types_.at(name) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) return {{n}, std::vector<int64_t>(count, value)};
    return {{n}, std::vector<float>(count, static_cast<float>(value))};
}

std::vector<float> Network::operator()(Inputs& inputs, const std::string& output, std::vector<int64_t>* shape) {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> names;
    std::vector<Ort::Value> values;
    for (auto& [name, tensor] : inputs) {
        names.push_back(name.c_str());
        std::visit(
            [&, &dims = tensor.shape](auto& given) {
                values.push_back(
                    Ort::Value::CreateTensor(memory, given.data(), given.size(), dims.data(), dims.size()));
            },
            tensor.values);
    }
    const char* wanted = output.c_str();
    const auto made = session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &wanted, 1);
    const Ort::TensorTypeAndShapeInfo info = made.front().GetTensorTypeAndShapeInfo();
    if (shape) *shape = info.GetShape();
    const auto* first = made.front().GetTensorData<float>();
    return {first, first + info.GetElementCount()};
}
