// The kernels for any processor.
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "inline.h"

namespace zx {
namespace scalar {
namespace {

constexpr int TILE = 2;
constexpr bool PAIRS = false;
#include "simd_scalar.h"
#include "product.inl"
#include "vector.inl"
#include "attend.inl"
#include "rows.inl"
#include "low_rank.inl"
#include "causal.inl"

}  // namespace
}  // namespace scalar

const Kernels SCALAR_KERNELS = {
    "scalar", scalar::TILE, scalar::product, scalar::quantise, scalar::norm, scalar::rotate, scalar::activate, scalar::add_rows,
    scalar::soft_cap, scalar::store_page, scalar::attend, scalar::merge_parts, scalar::candidates, scalar::survey,
    scalar::weigh_logits, scalar::place_row, scalar::place_row_gradient, scalar::scaled_norm_row,
    scalar::scaled_norm_row_gradient, scalar::square_positive,
    scalar::square_positive_gradient, scalar::drop, scalar::weigh_row, scalar::weigh_row_gradient,
    scalar::gate_row_gradient, scalar::low_rank_sums, scalar::causal, scalar::causal_gradient,
};

}  // namespace zx
