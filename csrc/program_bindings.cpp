// pydiff._C.Program: the steps of a network, each recorded once by pydiff/runtime/planned and run at every call.
#include "program_bindings.h"

#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "cpu/bytes.h"
#include "cpu/merge.h"
#include "cpu/normalise.h"
#include "cpu/program.h"
#include "cpu/winograd.h"
#include "pydiff.h"

namespace py = pybind11;

#ifdef PYDIFF_HAS_CLONES
namespace pydiff {

// Address; images, height, width; elements between pictures, lines and items; channels; whether bfloat16.
using PictureIn = std::tuple<uintptr_t, std::array<int64_t, 3>, std::array<int64_t, 3>, int64_t, bool>;

static Picture picture(const PictureIn& given) {
    const auto& [at, grid, place, channels, bfloat16] = given;
    return {reinterpret_cast<void*>(at), {grid[0], grid[1], grid[2]}, {place[0], place[1], place[2]}, channels, bfloat16};
}

static const float* floats(uintptr_t address) { return reinterpret_cast<const float*>(address); }

// Packed weights and bias; what the picture is told, and elements between its rows; a residual; scale; Act.
using Ending = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, std::optional<PictureIn>, double, int>;

static Product product_of(const PictureIn& x, const PictureIn& out, int64_t outputs, const Ending& ending) {
    const auto& [weights, bias, told, told_stride, residual, scale, act] = ending;
    const Picture from = picture(x), to = picture(out);
    Product p{};
    p.grid = to.grid, p.x = from.at, p.from = from.place, p.depth = from.channels, p.bfloat16 = from.bfloat16;
    p.kind = from.bfloat16 ? Kind::bfloat16 : Kind::float32;
    p.weights = reinterpret_cast<const void*>(weights), p.outputs = outputs, p.bias = floats(bias);
    p.told = floats(told), p.told_stride = told_stride;
    if (residual) p.residual = picture(*residual).at, p.beside = picture(*residual).place;
    p.out = to.at, p.to = to.place, p.wide = from.bfloat16 && !to.bfloat16;
    p.scale = static_cast<float>(scale), p.act = static_cast<Act>(act);
    return p;
}

static void add_product(Program& program, const PictureIn& x, const PictureIn& out, const std::vector<int64_t>& taps,
                        int64_t outputs, const Ending& ending) {
    Product p = product_of(x, out, outputs, ending);
    p.taps = taps;
    program.add([p](int threads) { product(p, threads); });
}

// Where the bytes that stand for rows are, and their scales; scales and offsets of the weights' columns.
using BytesIn = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

static void take_bytes(Product& p, const BytesIn& given) {
    const auto& [at, rows, columns, offsets] = given;
    p.kind = Kind::int8, p.scales = {floats(rows), floats(columns), reinterpret_cast<const int32_t*>(offsets)};
}

// A product of one tap, of x's rows as bytes.
static void add_byte_product(Program& program, const PictureIn& x, const PictureIn& out, int64_t outputs,
                             const Ending& ending, const BytesIn& given) {
    Product p = product_of(x, out, outputs, ending);
    auto* at = reinterpret_cast<uint8_t*>(std::get<0>(given));
    auto* scales = reinterpret_cast<float*>(std::get<1>(given));
    const Bytes b{picture(x), at, scales};
    take_bytes(p, given);
    p.x = at, p.from = {p.grid.height * p.grid.width * p.depth, p.grid.width * p.depth, p.depth}, p.taps = {0};
    program.add([b, p](int threads) { bytes(b, threads), product(p, threads); });
}

static void add_winograd(Program& program, const PictureIn& x, const PictureIn& out, int64_t outputs,
                         const Ending& ending, uintptr_t affines, int act, uintptr_t points, int64_t band,
                         const std::optional<BytesIn>& given) {
    Winograd w{};
    w.p = product_of(x, out, outputs, ending), w.head = {floats(affines), static_cast<Act>(act)};
    w.points = reinterpret_cast<void*>(points), w.band = band;
    if (given) {
        take_bytes(w.p, *given);
        w.bytes = reinterpret_cast<uint8_t*>(std::get<0>(*given));
        w.scales = reinterpret_cast<float*>(std::get<1>(*given));
    }
    program.add([w](int threads) { winograd(w, threads); });
}

static void add_statistics(Program& program, const PictureIn& x, int64_t groups, double eps, uintptr_t weight,
                           uintptr_t bias, uintptr_t scale, uintptr_t shift, int64_t told_stride, uintptr_t affines) {
    const Statistics s{picture(x),    groups,        eps,         floats(weight), floats(bias),
                       floats(scale), floats(shift), told_stride, reinterpret_cast<float*>(affines)};
    program.add([s](int threads) { statistics(s, threads); });
}

static void add_normalise(Program& program, const PictureIn& x, const PictureIn& out, uintptr_t affines, int act,
                          int64_t edge) {
    const Normalise n{picture(x), picture(out), floats(affines), static_cast<Act>(act), edge};
    program.add([n](int threads) { normalise(n, threads); });
}

static void add_resample(Program& program, const PictureIn& x, const PictureIn& out, bool mean, int64_t edge) {
    const Resample r{picture(x), picture(out), mean, edge};
    program.add([r](int threads) { resample(r, threads); });
}

static void add_layer_norm(Program& program, const PictureIn& x, const PictureIn& out, uintptr_t weight, uintptr_t bias,
                           double eps) {
    const LayerNorm l{picture(x), picture(out), floats(weight), floats(bias), static_cast<float>(eps)};
    program.add([l](int threads) { layer_norm(l, threads); });
}

// q, k, v and out as pictures of one line of items, whose channels are the heads' one after the other.
static void add_attention(Program& program, const PictureIn& q, const PictureIn& k, const PictureIn& v,
                          const PictureIn& out, int64_t heads, uintptr_t bias, int64_t text) {
    const auto of = [&](const PictureIn& given) {
        const Picture x = picture(given);
        return Heads{x.at, x.grid.images, x.place.image, x.channels / heads, x.place.item};
    };
    const Picture from = picture(q);
    Attention a{};
    a.q = of(q), a.k = of(k), a.v = of(v), a.out = of(out), a.bfloat16 = from.bfloat16;
    a.heads = heads, a.n = from.grid.width, a.m = picture(k).grid.width, a.dim = from.channels / heads;
    a.bias = floats(bias), a.text = bias ? text : 0;
    const auto rows = std::make_shared<std::vector<int64_t>>(from.grid.images);
    for (int64_t i = 0; i < from.grid.images; ++i) (*rows)[i] = i;
    a.q_rows = a.k_rows = a.v_rows = rows->data();
    program.add([a, rows](int threads) { attention(a, threads); });
}

// Images, height, width; how many pixels are left; place, starts and members.
using MatchesIn = std::tuple<std::array<int64_t, 3>, int64_t, std::array<uintptr_t, 3>>;

static Matches matches(const MatchesIn& given) {
    const auto& [grid, left, at] = given;
    const auto numbers = [&at = at](int i) { return reinterpret_cast<int32_t*>(at[i]); };
    return {{grid[0], grid[1], grid[2]}, left, numbers(0), numbers(1), numbers(2)};
}

static void add_match(Program& program, const PictureIn& x, const MatchesIn& to, uintptr_t packed, uintptr_t inverse,
                      uintptr_t best, uintptr_t nearest, uintptr_t order) {
    const Match m{picture(x),
                  matches(to),
                  reinterpret_cast<void*>(packed),
                  reinterpret_cast<float*>(inverse),
                  reinterpret_cast<float*>(best),
                  reinterpret_cast<int32_t*>(nearest),
                  reinterpret_cast<int32_t*>(order)};
    program.add([m](int threads) { match(m, threads); });
}

static void add_merge(Program& program, const PictureIn& x, const PictureIn& out, const MatchesIn& from) {
    const Merge m{picture(x), picture(out), matches(from)};
    program.add([m](int threads) { merge(m, threads); });
}

static void add_unmerge(Program& program, const PictureIn& x, const PictureIn& out, const MatchesIn& from,
                        const std::optional<PictureIn>& residual, double scale) {
    const Picture beside = residual ? picture(*residual) : Picture{};
    const Unmerge u{picture(x), picture(out), beside.at, beside.place, static_cast<float>(scale), matches(from)};
    program.add([u](int threads) { unmerge(u, threads); });
}

static void run(const Program& program, int64_t first, int64_t last, int threads) {
    if (first < 0 || first > last || last > program.size()) throw std::out_of_range("steps of a program");
    const py::gil_scoped_release released;
    program.run(first, last, threads);
}

void bind_program(py::module_& m) {
    if (!__builtin_cpu_supports("x86-64-v4")) return;
    py::class_<Program>(m, "Program", py::module_local())
        .def(py::init<>())
        .def("__len__", &Program::size)
        .def("product", &add_product)
        .def("byte_product", &add_byte_product)
        .def("winograd", &add_winograd)
        .def("statistics", &add_statistics)
        .def("normalise", &add_normalise)
        .def("resample", &add_resample)
        .def("layer_norm", &add_layer_norm)
        .def("attention", &add_attention)
        .def("match", &add_match)
        .def("merge", &add_merge)
        .def("unmerge", &add_unmerge)
        .def("run", &run);
    m.attr("byte_products") = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    m.attr("bfloat16_products") = static_cast<bool>(__builtin_cpu_supports("avx512bf16"));
}

}  // namespace pydiff
#else
namespace pydiff {
void bind_program(py::module_&) {}
}  // namespace pydiff
#endif
