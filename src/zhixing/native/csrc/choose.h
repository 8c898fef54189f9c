// Choosing a token from a row of logits: the likeliest, or one that is drawn among the likeliest.
#pragma once

#include <cstdint>
#include <vector>

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

// Reads settings, (count, 5): temperature, top-k, top-p, min-p, point. False when one is out of range.
bool choices_of(const double* settings, int64_t count, std::vector<Choice>& choices);

// A row is surveyed once, in blocks of so many logits: whatever comes then looks only into blocks that can hold
// candidates. Blocks can be surveyed by several threads.
constexpr int64_t SURVEYED = 256;
constexpr int64_t survey_blocks(int64_t size) { return (size + SURVEYED - 1) / SURVEYED; }

// What was found in each block: the highest logit, and a sum that is not a number when one of them is none.
struct Survey { float *tops, *sums; };

// Surveys blocks [first, last) of a row.
void survey(const Kernels& kernels, const float* logits, int64_t size, int64_t first, int64_t last, const Survey& to);

// Returns the token, or -1 when a logit is not a number.
int64_t choose_token(const Kernels& kernels, const float* logits, int64_t size, const Survey& surveyed, const Choice& choice);

}  // namespace zx
