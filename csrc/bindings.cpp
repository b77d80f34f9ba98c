// pydiff._C: addresses and sizes in, nothing out. The callers in pydiff/ops own the memory and check the shapes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/simd.h"
#include "program_bindings.h"
#include "pydiff.h"

namespace py = pybind11;
using pydiff::Attention;
using pydiff::GroupNormSilu;
using pydiff::GuidedStep;

static const float* in(uintptr_t address) { return reinterpret_cast<const float*>(address); }
static float* out(uintptr_t address) { return reinterpret_cast<float*>(address); }

// Addresses of x0, mask and noise; steps between pictures of x0 and of the mask; elements of a mask; coefficients.
using PasteIn = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, int64_t, int64_t, double, double>;

static pydiff::Paste paste_of(const PasteIn& given) {
    const auto [x0, mask, noise, x0_picture, mask_picture, plane, c_x0, c_noise] = given;
    return {in(x0),       in(mask), in(noise),                x0_picture,
            mask_picture, plane,    static_cast<float>(c_x0), static_cast<float>(c_noise)};
}

// place: a thread count, or a CUDA stream when there is a workspace in its device's memory.
static void guided_step(uintptr_t x, uintptr_t predictions, uintptr_t previous, uintptr_t noise, uintptr_t x_next,
                        uintptr_t denoised, int64_t batch, int64_t n, int64_t stride,
                        const std::vector<double>& weights, const std::array<double, 7>& step,
                        std::optional<std::pair<double, double>> log_variance,
                        const std::optional<PasteIn>& paste, int prediction, int limit, double percentile,
                        double max_value, double rescale, uintptr_t workspace, uintptr_t place) {
    if (weights.empty() || weights.size() > pydiff::kMaxBranches) throw std::invalid_argument("1 to 16 branches");
    GuidedStep s{};
    s.x = in(x), s.predictions = in(predictions), s.previous = in(previous), s.noise = in(noise);
    s.x_next = out(x_next), s.denoised = out(denoised);
    s.batch = batch, s.n = n, s.stride = stride;
    s.branches = static_cast<int>(weights.size());
    for (int r = 0; r < s.branches; ++r) s.weights[r] = static_cast<float>(weights[r]);
    float* const row[] = {&s.alpha, &s.sigma, &s.c_x, &s.c_denoised, &s.c_raw, &s.c_previous, &s.c_noise};
    for (int i = 0; i < 7; ++i) *row[i] = static_cast<float>(step[i]);
    if (log_variance) {  // exp((f high + (1 - f) low) / 2), f = (v + 1) / 2
        const auto [low, high] = *log_variance;
        s.learned = true;
        s.log_std = static_cast<float>((low + high) / 4);
        s.log_std_slope = static_cast<float>((high - low) / 4);
    }
    if (paste) s.paste = paste_of(*paste);
    s.prediction = static_cast<pydiff::Prediction>(prediction);
    s.limit = static_cast<pydiff::Limit>(limit);
    s.percentile = percentile, s.max_value = static_cast<float>(max_value), s.rescale = rescale;
    const py::gil_scoped_release released;
#ifdef PYDIFF_CUDA
    if (workspace)
        return pydiff::guided_step_cuda(s, reinterpret_cast<void*>(workspace), reinterpret_cast<void*>(place));
#endif
    if (workspace) throw std::invalid_argument("this build of pydiff._C has no CUDA kernels");
    pydiff::guided_step(s, static_cast<int>(place));
}

static void group_norm_silu(uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t scale, uintptr_t shift,
                            uintptr_t result, int64_t batch, int64_t channels, int64_t n, int64_t groups, double eps,
                            bool silu, bool channels_last, int threads) {
    const GroupNormSilu g{in(x), in(weight), in(bias), in(scale), in(shift), out(result),   batch,
                          channels, n,       groups,   eps,       silu,      channels_last};
    const py::gil_scoped_release released;
    pydiff::group_norm_silu(g, threads);
}

#ifdef PYDIFF_OUTER_LOOPS
// An address; rows; steps between rows, heads and items.
using HeadsIn = std::tuple<uintptr_t, int64_t, int64_t, int64_t, int64_t>;

static pydiff::Heads heads(const HeadsIn& x) {
    return {reinterpret_cast<void*>(std::get<0>(x)), std::get<1>(x), std::get<2>(x), std::get<3>(x), std::get<4>(x)};
}

static void attention(const HeadsIn& q, const HeadsIn& k, const HeadsIn& v, const HeadsIn& result, bool bfloat16,
                      const std::array<int64_t, 6>& sizes, const std::array<std::vector<int64_t>, 3>& rows,
                      uintptr_t bias, uintptr_t probe, uintptr_t heat, const std::vector<int64_t>& source,
                      uintptr_t transfer, uintptr_t keep, int pixels, int threads) {
    Attention a{};
    a.q = heads(q), a.k = heads(k), a.v = heads(v), a.out = heads(result), a.bfloat16 = bfloat16;
    std::tie(a.heads, a.n, a.m, a.dim, a.text, a.columns) = std::tuple_cat(sizes);
    a.q_rows = rows[0].data(), a.k_rows = rows[1].data(), a.v_rows = rows[2].data();
    a.bias = in(bias), a.probe = in(probe), a.heat = out(heat);
    a.source = source.empty() ? nullptr : source.data();
    a.transfer = in(transfer), a.keep = in(keep), a.pixels = static_cast<pydiff::Pixels>(pixels);
    const py::gil_scoped_release released;
    pydiff::attention(a, threads);
}
#endif

static float dynamic_range(uintptr_t values, int64_t n, double percentile, double max_value, int threads) {
    const py::gil_scoped_release released;
    return pydiff::dynamic_range(in(values), n, percentile, static_cast<float>(max_value), threads);
}

static void normal(pydiff::Generator& generator, uintptr_t result, int64_t n, bool wide) {
    const py::gil_scoped_release released;
    wide ? generator.normal(reinterpret_cast<double*>(result), n) : generator.normal(out(result), n);
}

// The instruction set that the CPU kernels run with on this machine; "" when it has no fused multiply-add.
static const char* simd() {
#if defined(PYDIFF_HAS_CLONES)
    if (__builtin_cpu_supports("x86-64-v4")) return "AVX-512";
    if (__builtin_cpu_supports("x86-64-v3")) return "AVX2";
    return "";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "";
#endif
}

PYBIND11_MODULE(_C, m) {
    m.def("guided_step", &guided_step);
    m.def("group_norm_silu", &group_norm_silu);
#ifdef PYDIFF_OUTER_LOOPS
    m.def("attention", &attention);
#endif
    m.def("dynamic_range", &dynamic_range);
    py::class_<pydiff::Generator>(m, "Generator", py::module_local()).def(py::init<uint64_t>()).def("normal", &normal);
    m.def("simd", &simd);
    pydiff::bind_program(m);
    m.attr("max_branches") = pydiff::kMaxBranches;
#ifdef _OPENMP
    m.attr("openmp") = true;
#else
    m.attr("openmp") = false;
#endif
#ifdef PYDIFF_CUDA
    m.attr("cuda") = true;
    m.def("guided_step_workspace", &pydiff::guided_step_cuda_workspace);
#else
    m.attr("cuda") = false;
#endif
}
