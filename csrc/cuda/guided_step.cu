// One sampler step on a GPU, asynchronous on the caller's stream. Without dynamic thresholding: one pass. With it: an
// estimate that counts, a radix search of at most three histograms that stops where counting decided, and a finish.
// Counts are integers and sums are added in a fixed order, so a picture does not depend on its batch.
#include <cuda_runtime.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "../pydiff.h"

#ifndef PYDIFF_LAUNCH
#define PYDIFF_LAUNCH(kernel, grid, stream, ...) kernel<<<grid, kThreads, 0, stream>>>(__VA_ARGS__)
#endif

namespace pydiff {
namespace {

constexpr int kThreads = 256, kChunk = 16 * kThreads, kBins = 2048, kRounds = 3;
constexpr int kMagnitude = 0x7fffffff, kOne = 0x3f800000, kInfinity = 0x7f800000;  // bits order as |values| do

// What is known of one picture while its range is searched.
struct State {
    unsigned low, high, bad, nan;  // how many |D| are <= 1, < max_value, infinite or NaN, NaN
    int from, to;                  // the order statistic `rank` of the values whose bits are in [from, to) is searched
    unsigned rank;
    int beyond;  // the smallest bits >= to
    bool found;
    float range;  // s of dynamic thresholding, once found
    float scale;  // of guidance rescaling
    unsigned bins[kBins];
};

struct Sums {
    double own, own_squared, wide, wide_squared;
};

struct Workspace {
    State* states;  // (B,)
    Sums* sums;     // (B, chunks)
};

__host__ __device__ inline int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

__device__ inline int bits(float value) { return __float_as_int(value) & kMagnitude; }

// Adds up v[0 .. kThreads) in a fixed order; every thread must call it.
__device__ double total(double* v) {
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) v[threadIdx.x] += v[threadIdx.x + half];
    }
    __syncthreads();
    return v[0];
}

__device__ inline float guided(const GuidedStep& s, int64_t b, int64_t i) {
    const float* prediction = s.predictions + b * s.stride + i;
    float sum = s.weights[0] * *prediction;
    for (int r = 1; r < s.branches; ++r) sum += s.weights[r] * prediction[r * s.batch * s.stride];
    return sum;
}

__device__ inline float estimate(const GuidedStep& s, int64_t b, int64_t i, const State& state) {
    float prediction = guided(s, b, i);
    if (s.rescale > 0) prediction *= state.scale;
    const float x = s.x[b * s.n + i];
    if (s.prediction == Prediction::epsilon) return (x - s.sigma * prediction) / s.alpha;
    if (s.prediction == Prediction::v_prediction) return s.alpha * x - s.sigma * prediction;
    return prediction;
}

// What is known in place of x' where the mask is 0, with it where the mask is between 0 and 1.
__device__ inline float put_back(const GuidedStep& s, int64_t b, int64_t i, float made) {
    const Paste& p = s.paste;
    const float keep = p.mask[b * p.mask_picture + (s.n <= UINT32_MAX ? uint32_t(i) % uint32_t(p.plane) : i % p.plane)];
    if (keep == 1) return made;
    float known = p.c_x0 * p.x0[b * p.x0_picture + i];
    if (p.noise) known += p.c_noise * p.noise[b * s.n + i];
    return keep == 0 ? known : keep * made + (1 - keep) * known;
}

__device__ inline void finish(const GuidedStep& s, int64_t b, int64_t i, float raw, float range) {
    const int64_t at = b * s.n + i;
    const float top = s.limit == Limit::dynamic ? range : s.max_value;
    float d = raw;
    if (s.limit != Limit::none) d = d < -top ? -top : d > top ? top : d;
    if (s.limit == Limit::dynamic) d = isnan(range) ? range : d / range;
    float out = s.c_x * s.x[at] + s.c_denoised * d;
    if (s.c_raw != 0) out += s.c_raw * raw;
    if (s.previous) out += s.c_previous * s.previous[at];
    if (s.noise) {
        float noise = s.noise[at];
        if (s.learned) noise *= expf(s.log_std + s.log_std_slope * s.predictions[b * s.stride + s.n + i]);
        out += s.c_noise * noise;
    }
    s.denoised[at] = d;
    s.x_next[at] = s.paste.mask ? put_back(s, b, i, out) : out;
}

// Every block but the last has kChunk elements; neighbouring threads take neighbouring elements.
#define PYDIFF_EACH(i) \
    for (int64_t i = blockIdx.x * int64_t{kChunk} + threadIdx.x, stop = min(i - threadIdx.x + kChunk, s.n); i < stop; \
         i += kThreads)

__global__ void sums_kernel(GuidedStep s, Workspace w) {
    __shared__ double shared[4][kThreads];
    const int64_t b = blockIdx.y;
    const double own0 = s.predictions[b * s.stride], wide0 = guided(s, b, 0);
    Sums mine{};
    PYDIFF_EACH(i) {
        const double own = s.predictions[b * s.stride + i] - own0, wide = guided(s, b, i) - wide0;
        mine.own += own, mine.own_squared += own * own;
        mine.wide += wide, mine.wide_squared += wide * wide;
    }
    shared[0][threadIdx.x] = mine.own, shared[1][threadIdx.x] = mine.own_squared;
    shared[2][threadIdx.x] = mine.wide, shared[3][threadIdx.x] = mine.wide_squared;
    const Sums all{total(shared[0]), total(shared[1]), total(shared[2]), total(shared[3])};
    if (threadIdx.x == 0) w.sums[b * gridDim.x + blockIdx.x] = all;
}

// phi std(branch 0) / std(guided) + 1 - phi
__global__ void scale_kernel(GuidedStep s, Workspace w) {
    __shared__ double shared[4][kThreads];
    const int64_t b = blockIdx.x, chunks = chunks_of(s.n);
    Sums mine{};
    for (int64_t c = threadIdx.x; c < chunks; c += kThreads) {
        const Sums part = w.sums[b * chunks + c];
        mine.own += part.own, mine.own_squared += part.own_squared;
        mine.wide += part.wide, mine.wide_squared += part.wide_squared;
    }
    shared[0][threadIdx.x] = mine.own, shared[1][threadIdx.x] = mine.own_squared;
    shared[2][threadIdx.x] = mine.wide, shared[3][threadIdx.x] = mine.wide_squared;
    const Sums all{total(shared[0]), total(shared[1]), total(shared[2]), total(shared[3])};
    if (threadIdx.x != 0) return;
    const double n = static_cast<double>(s.n);
    const double own = sqrt((all.own_squared - all.own * all.own / n) / (n - 1));
    const double wide = sqrt((all.wide_squared - all.wide * all.wide / n) / (n - 1));
    w.states[b].scale = static_cast<float>(s.rescale * own / wide + (1 - s.rescale));
}

__global__ void once_kernel(GuidedStep s, Workspace w) {
    const int64_t b = blockIdx.y;
    PYDIFF_EACH(i) finish(s, b, i, estimate(s, b, i, w.states[b]), 1);
}

__global__ void count_kernel(GuidedStep s, Workspace w) {
    __shared__ unsigned counts[4];
    const int64_t b = blockIdx.y;
    const int high_bits = __float_as_int(s.max_value);
    unsigned low = 0, high = 0, bad = 0, nan = 0;
    if (threadIdx.x < 4) counts[threadIdx.x] = 0;
    __syncthreads();
    PYDIFF_EACH(i) {
        const float raw = estimate(s, b, i, w.states[b]);
        s.denoised[b * s.n + i] = raw;
        const int u = bits(raw);
        low += u <= kOne, high += u < high_bits, bad += u >= kInfinity, nan += u > kInfinity;
    }
    atomicAdd(&counts[0], low), atomicAdd(&counts[1], high), atomicAdd(&counts[2], bad), atomicAdd(&counts[3], nan);
    __syncthreads();
    if (threadIdx.x < 4) atomicAdd(&w.states[b].low + threadIdx.x, counts[threadIdx.x]);
}

// The range where counting decides it, else the interval to search: one thread a picture.
__global__ void decide_kernel(GuidedStep s, Workspace w) {
    const int64_t b = blockIdx.x * int64_t{kThreads} + threadIdx.x;
    if (b >= s.batch) return;
    State& state = w.states[b];
    const double rank = s.percentile * static_cast<double>(s.n - 1);
    const int64_t at = static_cast<int64_t>(rank), next = static_cast<int64_t>(ceil(rank));
    state.found = true, state.beyond = kMagnitude;
    if (state.nan || (state.bad && at >= s.n - state.bad)) {
        state.range = __int_as_float(0x7fc00000);  // torch: inf - inf, or NaN in the picture
    } else if (next < state.low) {
        state.range = 1;
    } else if (at >= state.high) {
        state.range = s.max_value;
    } else {
        const bool inside = at >= state.low && next < state.high;
        state.found = false;
        state.from = inside ? kOne + 1 : 0;
        state.to = inside ? __float_as_int(s.max_value) : kInfinity + 1;
        state.rank = static_cast<unsigned>(at - (inside ? state.low : 0));
    }
}

__device__ inline int shift_of(int from, int to) {
    int shift = 0;
    while ((to - from - 1) >> shift >= kBins) ++shift;
    return shift;
}

__global__ void histogram_kernel(GuidedStep s, Workspace w) {
    __shared__ unsigned bins[kBins];
    __shared__ int beyond;
    State& state = w.states[blockIdx.y];
    if (state.found) return;
    const int from = state.from, to = state.to, shift = shift_of(from, to);
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
    if (threadIdx.x == 0) beyond = kMagnitude;
    __syncthreads();
    int least = kMagnitude;
    PYDIFF_EACH(i) {
        const int u = bits(s.denoised[blockIdx.y * s.n + i]);
        if (u >= to) least = min(least, u);
        else if (u >= from) atomicAdd(&bins[(u - from) >> shift], 1u);
    }
    if (least < kMagnitude) atomicMin(&beyond, least);
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
        if (bins[bin]) atomicAdd(&state.bins[bin], bins[bin]);
    if (threadIdx.x == 0 && beyond < kMagnitude) atomicMin(&state.beyond, beyond);
}

// Narrows the interval to the bin that holds the rank: one block a picture, kBins / kThreads bins a thread.
__global__ void narrow_kernel(GuidedStep s, Workspace w) {
    constexpr int kOwn = kBins / kThreads;
    __shared__ unsigned before[kThreads];
    State& state = w.states[blockIdx.x];
    if (state.found) return;
    const int from = state.from, to = state.to, shift = shift_of(from, to), first = threadIdx.x * kOwn;
    const unsigned rank = state.rank;
    unsigned own[kOwn], sum = 0;
    for (int j = 0; j < kOwn; ++j) sum += own[j] = state.bins[first + j];
    before[threadIdx.x] = sum;
    for (int step = 1; step < kThreads; step *= 2) {  // inclusive prefix sums
        __syncthreads();
        const unsigned left = threadIdx.x >= step ? before[threadIdx.x - step] : 0;
        __syncthreads();
        before[threadIdx.x] += left;
    }
    unsigned below = before[threadIdx.x] - sum;
    const bool mine = below <= rank && rank < below + sum;
    __syncthreads();
    if (mine) {
        int bin = 0;
        for (; rank >= below + own[bin]; ++bin) below += own[bin];
        const int at = from + ((first + bin) << shift);
        if (shift > 0) {
            state.from = at;
            state.to = min(to, at + (1 << shift));
            state.rank = rank - below;
        } else {  // a bin is a value: the next value is in this bin, in a later bin, or beyond
            int next = first + bin;
            if (rank + 1 >= below + own[bin]) {
                do ++next;
                while (next < kBins && state.bins[next] == 0);
            }
            const double exact = s.percentile * static_cast<double>(s.n - 1), part = exact - floor(exact);
            double range = __int_as_float(at);
            if (part > 0) range += (__int_as_float(next < kBins ? from + next : state.beyond) - range) * part;
            state.range = static_cast<float>(fmin(fmax(range, 1.0), static_cast<double>(s.max_value)));
            state.found = true;
        }
    }
    __syncthreads();
    for (int j = 0; j < kOwn; ++j) state.bins[first + j] = 0;
}

__global__ void finish_kernel(GuidedStep s, Workspace w) {
    const int64_t b = blockIdx.y;
    const float range = w.states[b].range;
    PYDIFF_EACH(i) finish(s, b, i, s.denoised[b * s.n + i], range);
}

}  // namespace

int64_t guided_step_cuda_workspace(int64_t batch, int64_t n) {
    return batch * static_cast<int64_t>(sizeof(State) + chunks_of(n) * sizeof(Sums));
}

void guided_step_cuda(const GuidedStep& s, void* workspace, void* stream_) {
    const auto stream = static_cast<cudaStream_t>(stream_);
    const auto batch = static_cast<unsigned>(s.batch);
    const dim3 all(static_cast<unsigned>(chunks_of(s.n)), batch), pictures(batch);
    Workspace w;
    w.sums = static_cast<Sums*>(workspace);
    w.states = reinterpret_cast<State*>(w.sums + s.batch * chunks_of(s.n));
    cudaMemsetAsync(w.states, 0, s.batch * sizeof(State), stream);
    if (s.rescale > 0) {
        PYDIFF_LAUNCH(sums_kernel, all, stream, s, w);
        PYDIFF_LAUNCH(scale_kernel, pictures, stream, s, w);
    }
    if (s.limit != Limit::dynamic) {
        PYDIFF_LAUNCH(once_kernel, all, stream, s, w);
    } else {
        PYDIFF_LAUNCH(count_kernel, all, stream, s, w);
        PYDIFF_LAUNCH(decide_kernel, dim3((batch + kThreads - 1) / kThreads), stream, s, w);
        for (int round = 0; round < (s.max_value > 1 ? kRounds : 0); ++round) {
            PYDIFF_LAUNCH(histogram_kernel, all, stream, s, w);
            PYDIFF_LAUNCH(narrow_kernel, pictures, stream, s, w);
        }
        PYDIFF_LAUNCH(finish_kernel, all, stream, s, w);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) throw std::runtime_error(std::string("guided_step on CUDA: ") + cudaGetErrorString(error));
}

}  // namespace pydiff
