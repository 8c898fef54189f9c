// The kernels for avx2,fma,f16c.
// Everything above the target pragma is compiled for the plain processor: an inline function of a header that were
// compiled here for a newer one could be the copy that the linker keeps for all, and run where it must not.
#include <cmath>
#include <cstring>

#include "kernels.h"

#ifdef ZX_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#include "inline.h"

namespace zx {
namespace avx2 {
namespace {

constexpr int TILE = 4;
constexpr bool PAIRS = false;
#include "simd_avx2.h"
#include "product.inl"
#include "vector.inl"
#include "attend.inl"
#include "rows.inl"
#include "low_rank.inl"
#include "causal.inl"

}  // namespace
}  // namespace avx2

const Kernels AVX2_KERNELS = {
    "avx2", avx2::TILE, avx2::product, avx2::quantise, avx2::norm, avx2::rotate, avx2::activate, avx2::add_rows,
    avx2::soft_cap, avx2::store_page, avx2::attend, avx2::merge_parts, avx2::candidates, avx2::survey,
    avx2::weigh_logits, avx2::place_row, avx2::place_row_gradient, avx2::scaled_norm_row,
    avx2::scaled_norm_row_gradient, avx2::square_positive,
    avx2::square_positive_gradient, avx2::drop, avx2::weigh_row, avx2::weigh_row_gradient,
    avx2::gate_row_gradient, avx2::low_rank_sums, avx2::causal, avx2::causal_gradient,
};

}  // namespace zx

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif  // ZX_X86
