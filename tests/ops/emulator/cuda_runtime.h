// As much of CUDA as pydiff's kernels use, on a CPU: the threads of a block are fibers that switch at __syncthreads().
// PYDIFF_REVERSED runs them last to first: a kernel that lacks a barrier gives another result.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define PYDIFF_LAUNCH(kernel, grid, stream, ...) emulator::launch([&] { kernel(__VA_ARGS__); }, grid, kThreads)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

inline dim3 threadIdx, blockIdx, gridDim;

namespace emulator {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStack = 1 << 16;

inline ucontext_t scheduler, fibers[kMostThreads];
inline bool done[kMostThreads];
inline unsigned running;
inline std::function<void()> body;
inline const std::unique_ptr<char[]> stacks(new char[kMostThreads * kStack]);

inline void enter() {
    body();
    done[running] = true;
}

inline void run_block(unsigned threads) {
    for (unsigned t = 0; t < threads; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack.ss_sp = stacks.get() + t * kStack;
        fibers[t].uc_stack.ss_size = kStack;
        fibers[t].uc_link = &scheduler;
        makecontext(&fibers[t], enter, 0);
        done[t] = false;
    }
    while (!std::all_of(done, done + threads, [](bool d) { return d; })) {
        for (unsigned i = 0; i < threads; ++i) {
            running = std::getenv("PYDIFF_REVERSED") ? threads - 1 - i : i;
            threadIdx = dim3(running);
            if (!done[running]) swapcontext(&scheduler, &fibers[running]);
        }
    }
}

inline void launch(std::function<void()> kernel, dim3 grid, unsigned threads) {
    body = std::move(kernel);
    gridDim = grid;
    for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = dim3(x, y);
            run_block(threads);
        }
    }
}

}  // namespace emulator

inline void __syncthreads() {
    const unsigned own = emulator::running;
    swapcontext(&emulator::fibers[own], &emulator::scheduler);
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t) {
    std::memset(to, value, size);
    return cudaSuccess;
}

inline int __float_as_int(float value) {
    int raw;
    std::memcpy(&raw, &value, sizeof raw);
    return raw;
}

inline float __int_as_float(int raw) {
    float value;
    std::memcpy(&value, &raw, sizeof value);
    return value;
}

template <typename T>
T atomicAdd(T* at, T value) {
    const T old = *at;
    *at += value;
    return old;
}

template <typename T>
T atomicMin(T* at, T value) {
    const T old = *at;
    *at = std::min(old, value);
    return old;
}

using std::isnan;
using std::min;
