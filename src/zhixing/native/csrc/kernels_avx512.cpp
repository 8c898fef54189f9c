// The kernels for avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni.
// Everything above the target pragma is compiled for the plain processor: an inline function of a header that were
// compiled here for a newer one could be the copy that the linker keeps for all, and run where it must not.
#include <cmath>
#include <cstring>

#include "kernels.h"

#ifdef ZX_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#endif
#include "inline.h"

namespace zx {
namespace avx512 {
namespace {

constexpr int TILE = 8;
constexpr bool PAIRS = true;
#include "simd_avx512.h"
#include "product.inl"
#include "vector.inl"
#include "attend.inl"
#include "rows.inl"
#include "low_rank.inl"
#include "causal.inl"

}  // namespace
}  // namespace avx512

const Kernels AVX512_KERNELS = {
    "avx512", avx512::TILE, avx512::product, avx512::quantise, avx512::norm, avx512::rotate, avx512::activate, avx512::add_rows,
    avx512::soft_cap, avx512::store_page, avx512::attend, avx512::merge_parts, avx512::candidates, avx512::survey,
    avx512::weigh_logits, avx512::place_row, avx512::place_row_gradient, avx512::scaled_norm_row,
    avx512::scaled_norm_row_gradient, avx512::square_positive,
    avx512::square_positive_gradient, avx512::drop, avx512::weigh_row, avx512::weigh_row_gradient,
    avx512::gate_row_gradient, avx512::low_rank_sums, avx512::causal, avx512::causal_gradient,
};

}  // namespace zx

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif  // ZX_X86
