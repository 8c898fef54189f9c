// What this processor can run, and the kernels to use on it.
#pragma once

#include "kernels.h"

namespace zx {

struct Features {
    bool avx2 = false;    // with FMA and F16C, and an operating system that keeps the wide registers
    bool avx512 = false;  // F, BW, VL, DQ and VNNI, likewise
};

const Features& features();

// Kernels by name ("scalar", "avx2", "avx512"), or the best ones for "auto"; null when this processor cannot run them.
const Kernels* kernels_named(const char* name);

}  // namespace zx
