#include "cpu.h"

#include <cstring>

#if defined(ZX_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace zx {
namespace {

#if defined(ZX_X86)
void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, int(leaf), int(subleaf));
    for (int i = 0; i < 4; ++i) out[i] = uint32_t(values[i]);
#else
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
#endif
}

// The register states that the operating system saves and restores (XCR0).
uint64_t saved_states() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
#endif
}
#endif

Features detect() {
    Features found;
#if defined(ZX_X86)
    uint32_t r[4];
    cpuid(0, 0, r);
    const uint32_t highest = r[0];
    if (highest < 7) return found;
    cpuid(1, 0, r);
    const uint32_t ecx1 = r[2];
    const auto bit = [](uint32_t value, int index) { return (value >> index & 1) != 0; };
    if (!bit(ecx1, 27)) return found;  // OSXSAVE: xgetbv may be asked
    const uint64_t states = saved_states();
    const bool fma = bit(ecx1, 12), avx = bit(ecx1, 28), f16c = bit(ecx1, 29);
    cpuid(7, 0, r);
    const bool avx2 = bit(r[1], 5);
    const bool avx512 = bit(r[1], 16) && bit(r[1], 17) && bit(r[1], 30) && bit(r[1], 31) && bit(r[2], 11);
    found.avx2 = fma && avx && f16c && avx2 && (states & 0x6) == 0x6;
    found.avx512 = found.avx2 && avx512 && (states & 0xe6) == 0xe6;
#endif
    return found;
}

}  // namespace

const Features& features() {
    static const Features found = detect();
    return found;
}

const Kernels* kernels_named(const char* name) {
    const bool automatic = std::strcmp(name, "auto") == 0;
#if defined(ZX_X86)
    if ((automatic || std::strcmp(name, "avx512") == 0) && features().avx512) return &AVX512_KERNELS;
    if ((automatic || std::strcmp(name, "avx2") == 0) && features().avx2) return &AVX2_KERNELS;
#endif
    return automatic || std::strcmp(name, "scalar") == 0 ? &SCALAR_KERNELS : nullptr;
}

}  // namespace zx
