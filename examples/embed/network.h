// A graph of an exported folder, run by ONNX Runtime on the CPU.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

struct Tensor {
    std::vector<int64_t> shape;
    std::variant<std::vector<float>, std::vector<int64_t>> values;
};

using Inputs = std::map<std::string, Tensor>;

class Network {
   public:
    // threads: 0 for one per core. Throws Ort::Exception for a file that ONNX Runtime refuses.
    Network(Ort::Env& env, const std::filesystem::path& path, int threads);

    bool takes(const std::string& name) const { return types_.count(name) > 0; }

    // n times a number, in the type that the graph takes it in.
    Tensor filled(const std::string& name, int64_t n, int64_t value) const;

    // One float output of the inputs, each of which the graph takes.
    std::vector<float> operator()(Inputs& inputs, const std::string& output, std::vector<int64_t>* shape = nullptr);

   private:
    Ort::Session session_;
    std::map<std::string, ONNXTensorElementDataType> types_;  // of the inputs
};
