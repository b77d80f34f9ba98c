// The operators of the native core. Plain pointers (to contiguous float32, where nothing else is said), sizes, and a
// thread count or a CUDA stream.
#pragma once

#include <cstdint>

namespace pydiff {

constexpr int kMaxBranches = 16;

enum class Prediction : int { epsilon, v_prediction, sample };
enum class Limit : int { none, fixed, dynamic };

// x' becomes mask x' + (1 - mask) (c_x0 x0 + c_noise noise): one mask for the channels of a picture.
struct Paste {
    const float *x0, *mask, *noise;    // mask is null where nothing is put back, noise where it is not used
    int64_t x0_picture, mask_picture;  // elements from one picture to the next: 0 where one serves the batch
    int64_t plane;                     // elements of a mask
    float c_x0, c_noise;
};

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
    Paste paste;
};

// (x - mean) / sqrt(variance + eps) per group of channels, weight and bias, scale and shift, SiLU.
struct GroupNormSilu {
    const float *x, *weight, *bias, *scale, *shift;  // (C,), (C,), (B, C), (B, C): each may be null
    float* out;
    int64_t batch, channels, n, groups;  // n: elements of a channel
    double eps;
    bool silu, channels_last;  // (B, n, C) in memory instead of (B, C, n)
};

enum class Pixels : int { keep, rescale, borrow };

// (rows, heads, items, dim), with steps in elements between rows, heads and items; dim is contiguous.
struct Heads {
    void* at;
    int64_t rows, row, head, item;
};

// softmax(q k^T / sqrt(dim) + bias) v with captures and edits of its first `text` columns: see pydiff/ops/attention.py.
struct Attention {
    Heads q, k, v, out;
    bool bfloat16;  // q, k, v and out: else float32
    int64_t heads, n, m, dim, text, columns;  // n queries, m keys; columns of the probe
    const int64_t *q_rows, *k_rows, *v_rows;  // which row of q, k and v a row of out is made from
    const float *bias, *probe;                // (rows, text), (rows, text, columns): each may be null
    float* heat;                              // (rows, n, columns), added to
    const int64_t* source;                    // (rows,): null without edits
    const float *transfer, *keep;             // (rows, text, text), (rows, text)
    Pixels pixels;
};

void attention(const Attention& a, int threads);
void guided_step(const GuidedStep& s, int threads);
void group_norm_silu(const GroupNormSilu& g, int threads);

// clamp(quantile(|values|, percentile), 1, max_value), linear between order statistics, found without sorting.
float dynamic_range(const float* values, int64_t n, double percentile, float max_value, int threads);

// Standard normal numbers as torch.randn draws them from torch.Generator("cpu").manual_seed(seed), call after call, to
// within 2e-6 (float) and 1e-12 (double).
class Generator {
   public:
    explicit Generator(uint64_t seed);
    void normal(float* out, int64_t n);
    void normal(double* out, int64_t n);

   private:
    static constexpr int kWords = 624;
    uint32_t state_[kWords], words_[kWords];  // words_: what the state gives, of which `used_` are drawn
    int used_ = kWords;
    double spare_ = 0;  // the second number of a pair, for the next short draw
    bool has_spare_ = false;

    void draw(uint32_t* out, int64_t n);
    template <typename Real>
    void fill(Real* out, int64_t n);
    double one();
};

#ifdef PYDIFF_CUDA
int64_t guided_step_cuda_workspace(int64_t batch, int64_t n);  // bytes
void guided_step_cuda(const GuidedStep& s, void* workspace, void* stream);
#endif

}  // namespace pydiff
