// The operators of the native core. Plain pointers to contiguous float32, sizes, and a thread count or a CUDA stream.
#pragma once

#include <cstdint>

namespace pydiff {

constexpr int kMaxBranches = 16;

enum class Prediction : int { epsilon, v_prediction, sample };
enum class Limit : int { none, fixed, dynamic };

// x' = c_x x + c_denoised D + c_raw D_raw + c_previous D_previous + c_noise noise: see pydiff/ops/guided_step.py.
struct GuidedStep {
    const float *x, *predictions, *previous, *noise;  // previous and noise are null where they are not used
    float *x_next, *denoised;
    int64_t batch, n, stride;  // elements of a picture, and of its prediction: n, or 2 n with variance channels
    int branches;
    float weights[kMaxBranches];
    float alpha, sigma, c_x, c_denoised, c_raw, c_previous, c_noise;
    bool learned;                  // the noise is multiplied by exp(log_std + log_std_slope v)
    float log_std, log_std_slope;  // v: the variance channels of branch 0
    Prediction prediction;
    Limit limit;
    double percentile;
    float max_value;
    double rescale;
};

// (x - mean) / sqrt(variance + eps) per group of channels, weight and bias, scale and shift, SiLU.
struct GroupNormSilu {
    const float *x, *weight, *bias, *scale, *shift;  // (C,), (C,), (B, C), (B, C): each may be null
    float* out;
    int64_t batch, channels, n, groups;  // n: elements of a channel
    double eps;
    bool silu, channels_last;  // (B, n, C) in memory instead of (B, C, n)
};

void guided_step(const GuidedStep& s, int threads);
void group_norm_silu(const GroupNormSilu& g, int threads);

// clamp(quantile(|values|, percentile), 1, max_value), linear between order statistics, found without sorting.
float dynamic_range(const float* values, int64_t n, double percentile, float max_value, int threads);

#ifdef PYDIFF_CUDA
int64_t guided_step_cuda_workspace(int64_t batch, int64_t n);  // bytes
void guided_step_cuda(const GuidedStep& s, void* workspace, void* stream);
#endif

}  // namespace pydiff
