// The likeliest token by way of an approximate head. All logits are first computed from a matrix of fewer bits; then
// those that could be the highest are computed again, exactly as the whole head would have, which decides.
//
// Both products read the same rounded activations x, so that by Cauchy and Schwarz they differ by |w - v| |x| at most,
// w and v being the exact and the approximate row, and by what rounding their sums to float32 adds. `head_bounds`
// computes the factor of |x| for every row once. An exact logit sets the limit: no row whose approximation and bound stay
// below it can be the highest.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine.h"

namespace zx {
namespace {

constexpr double ULP = 1.0 / (1 << 24);   // of float32, half a unit in the last place
constexpr float NEXT = 1.0f / (1 << 22);  // of a logit: adding the bias, and the comparison itself
constexpr int64_t SEARCHED = 256, PANELS_AT_ONCE = 128;

float rounded_up(double value) { return std::nextafter(float(value), INFINITY); }

// An upper bound of the length of a row of rounded activations.
float length_of(const uint8_t* row, int64_t cols) {
    const QuantRow x = quant_row(row, size_t(cols));
    double squares = 0.0;
    for (int64_t group = 0, second = 0; group < cols / GROUP; ++group) {
        const bool both = second < *x.fine_count && x.fine_places[second] == group;
        for (int k = 0; k < GROUP; ++k) {
            double value = double(x.groups[group].scale) * x.groups[group].q[k];
            if (both) value += double(x.fine[second].scale) * x.fine[second].q[k];
            squares += value * value;
        }
        second += both;
    }
    return rounded_up(std::sqrt(squares) * (1.0 + 16 * ULP));
}

}  // namespace

void head_bounds(const Matrix& exact, const Matrix& approximate, int64_t first, int64_t last, float* bounds) {
    // A sum over groups of at most three terms each, with a scale and a sum that were rounded before. The terms are no
    // larger than the magnitudes say, but for the second term of activations, which is a fiftieth of the first at most;
    // four times that is room enough.
    const double roundings = 4.0 * (3.0 * double(exact.cols / GROUP) + 8.0) * ULP;
    std::vector<float> w(size_t(exact.cols)), v(size_t(exact.cols));
    for (int64_t row = first; row < last; ++row) {
        unpack_row(exact, row, w.data());
        unpack_row(approximate, row, v.data());
        double squares = 0.0;
        for (int64_t k = 0; k < exact.cols; ++k) squares += (double(w[size_t(k)]) - v[size_t(k)]) * (double(w[size_t(k)]) - v[size_t(k)]);
        const double slack = roundings * (row_magnitude(exact, row) + row_magnitude(approximate, row));
        bounds[row] = rounded_up(std::sqrt(squares) * (1.0 + 16 * ULP) + slack);
    }
}

int64_t Engine::refine_parts(const Operation& o) const {
    const int64_t panels = plan_->matrices[size_t(o.a[3])].panels();
    return rows(o) * ((panels + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE);
}

// Computes one panel of a row's logits exactly.
void Engine::refine_panel(const Operation& o, int64_t token, int64_t panel) {
    Product p;
    p.weight = &plan_->matrices[size_t(o.a[3])];
    p.x = nullptr;
    p.x_stride = 0;
    p.quant = quantised(o.a[2], 0);
    p.quant_stride = int64_t(quant_bytes(size_t(plan_->quantised[size_t(o.a[2])])));
    p.bias = o.a[5] >= 0 ? plan_->vectors[size_t(o.a[5])].at : nullptr;
    p.y = row(o.a[1], 0);
    p.y_stride = plan_->buffers[size_t(o.a[1])];
    p.add = false;
    kernels_->product(p, panel, panel + 1, token, token + 1);
}

// Finds the limit of each row: the highest exact logit beside the highest approximate one.
void Engine::lead(const Operation& o, int64_t first, int64_t last) {
    const Matrix& exact = plan_->matrices[size_t(o.a[3])];
    for (int64_t t = first; t < last; ++t) {
        const float* const logits = row(o.a[1], t);
        float highest = -INFINITY, sum;
        int64_t from = 0;
        for (int64_t at = 0; at < exact.rows; at += SEARCHED) {
            const float top = kernels_->survey(logits + at, std::min(SEARCHED, exact.rows - at), &sum);
            if (top > highest) { highest = top; from = at; }
        }
        while (from + 1 < exact.rows && logits[from] != highest) ++from;
        const int64_t panel = from / ROWS, end = std::min(exact.rows, (panel + 1) * ROWS);
        refine_panel(o, t, panel);
        limits_[size_t(2 * t)] = *std::max_element(logits + panel * ROWS, logits + end);
        limits_[size_t(2 * t + 1)] = length_of(quantised(o.a[2], t), exact.cols);
    }
}

// Computes again whatever panels hold a row that could be the highest; with numbers that are none, all of them.
void Engine::refine(const Operation& o, int64_t first, int64_t last) {
    const Matrix& exact = plan_->matrices[size_t(o.a[3])];
    const float* const bounds = plan_->vectors[size_t(o.a[4])].at;
    const int64_t parts = (exact.panels() + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE;
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t t = unit / parts, from = unit % parts * PANELS_AT_ONCE;
        const float* const logits = row(o.a[1], t);
        const float limit = limits_[size_t(2 * t)], length = limits_[size_t(2 * t + 1)];
        for (int64_t panel = from; panel < std::min(from + PANELS_AT_ONCE, exact.panels()); ++panel) {
            const int64_t begin = panel * ROWS, end = std::min(exact.rows, begin + ROWS);
            int leads = 0;
            for (int64_t i = begin; i < end; ++i)
                leads |= !(logits[i] + bounds[i] * length + std::fabs(logits[i]) * NEXT < limit);
            if (leads) refine_panel(o, t, panel);
        }
    }
}

}  // namespace zx
