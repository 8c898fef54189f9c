// Work on the threads that PyTorch computes its own operations on.
//
// Those threads spin for a while after each operation, so that others beside them would not get a processor. `Parallel` is
// the function by which PyTorch's OpenMP starts them, GOMP_parallel of libgomp; null means the calling thread alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <initializer_list>

namespace zx {

using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// Calls work(first, last) for runs of at most `block` units that cover [0, units). Every unit's result is its own, so
// that who does it changes nothing.
template <typename Work> void on_threads(Parallel parallel, int threads, int64_t units, int64_t block, const Work& work) {
    struct Shared {
        const Work* work;
        int64_t units, block;
        std::atomic<int64_t> next{0};
    } shared;
    shared.work = &work;
    shared.units = units;
    shared.block = block;
    void (*const body)(void*) = [](void* at) {
        Shared& s = *static_cast<Shared*>(at);
        for (int64_t first; (first = s.next.fetch_add(s.block, std::memory_order_relaxed)) < s.units;)
            (*s.work)(first, std::min(s.units, first + s.block));
    };
    if (parallel && threads > 1 && units > block) parallel(body, &shared, unsigned(threads), 0);
    else body(&shared);
}

inline bool in_range(std::initializer_list<int64_t> sizes) {
    return std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size >= 1 && size <= int64_t(1) << 32; });
}

}  // namespace zx
