// Functions of the kernels are always inlined or local to their file: see kernels_avx2.cpp.
#pragma once

#if defined(_MSC_VER)
#define ZX_INLINE static __forceinline
#else
#define ZX_INLINE static inline __attribute__((always_inline))
#endif
