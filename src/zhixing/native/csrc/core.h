// What the parts of the C interface share: the pool, the chosen kernels, and how errors are reported.
#pragma once

#include <string>

#include "cpu.h"
#include "pool.h"

#if defined(_WIN32)
#define ZX_API extern "C" __declspec(dllexport)
#else
#define ZX_API extern "C" __attribute__((visibility("default")))
#endif

namespace zx {

Pool& pool();
const Kernels& kernels();

// Remembers why a call failed, for zx_error; returns -1, which the call hands on.
int fail(const std::string& why);

// Runs units in blocks so that their number stays within what the pool can count.
template <typename Work> void run_blocks(int64_t units, int64_t least, Work work) {
    int64_t block = least < 1 ? 1 : least;
    while ((units + block - 1) / block > 100000) block *= 2;
    run_parallel(pool(), (units + block - 1) / block, [&](int64_t first, int64_t last) {
        work(first * block, last * block < units ? last * block : units);
    });
}

}  // namespace zx
