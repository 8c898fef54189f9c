// Choosing a token from a row of logits: the likeliest, or one that is drawn among the likeliest.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace zx {

// How one row is chosen from. The steps are those of `generation/filters.py`, in that order.
struct Choice {
    double temperature;  // 0: the likeliest
    int64_t top_k;       // 0: all
    double top_p;        // 1: all
    double min_p;        // 0: all
    double point;        // the random number, from 0 up to 1
};

// Returns the token, or -1 when a logit is not a number.
int64_t choose_token(const Kernels& kernels, const float* logits, int64_t size, const Choice& choice);

}  // namespace zx
