// Vector primitives for AVX-512 (F, BW, VL, DQ) with VNNI: 16 lanes, one for each row of a panel.

constexpr int LANES = 16;
using Vec = __m512;

// In front of a loop over accumulators. A compiler that leaves it rolled keeps them in memory; with 32 registers there is
// room for all of them (AVX2's 16 are too few, and there it costs a fifth).
#if defined(__clang__)
#define ZX_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define ZX_UNROLL _Pragma("GCC unroll 8")
#else
#define ZX_UNROLL
#endif

ZX_INLINE Vec vset(float x) { return _mm512_set1_ps(x); }
ZX_INLINE Vec vload(const float* p) { return _mm512_loadu_ps(p); }
ZX_INLINE Vec vload_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
ZX_INLINE Vec vload_bf16(const uint16_t* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
ZX_INLINE Vec vload_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
ZX_INLINE Vec vload_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
ZX_INLINE Vec vadd(Vec a, Vec b) { return _mm512_add_ps(a, b); }
ZX_INLINE Vec vsub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
ZX_INLINE Vec vmul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
ZX_INLINE Vec vdiv(Vec a, Vec b) { return _mm512_div_ps(a, b); }
ZX_INLINE Vec vfma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
ZX_INLINE Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
ZX_INLINE Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
ZX_INLINE Vec vabs(Vec a) { return _mm512_abs_ps(a); }
ZX_INLINE Vec vround(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
ZX_INLINE Vec vpow2(Vec n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
ZX_INLINE Vec vsign_of(Vec magnitude, Vec sign) { return _mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign)); }
ZX_INLINE Vec vwithin(Vec a, Vec b, int first, int last) {
    const uint32_t below_last = last >= 16 ? 0xffffu : last <= 0 ? 0u : (1u << last) - 1;
    const uint32_t below_first = first >= 16 ? 0xffffu : first <= 0 ? 0u : (1u << first) - 1;
    return _mm512_mask_mov_ps(b, __mmask16(below_last & ~below_first), a);
}
ZX_INLINE void vstore(float* p, Vec a) { _mm512_storeu_ps(p, a); }
ZX_INLINE void vstore_i8(int8_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}
ZX_INLINE void vstore_half(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
ZX_INLINE float vsum(Vec a) { return _mm512_reduce_add_ps(a); }
ZX_INLINE float vhighest(Vec a) { return _mm512_reduce_max_ps(a); }
ZX_INLINE int32_t sum_of_16(const int8_t* q) {
    const __m128i biased = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)), _mm_set1_epi8(char(128)));
    const __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}
ZX_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
ZX_INLINE void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// The quads of one group, all unsigned.
struct Quads { __m512i at[8]; };

ZX_INLINE __m512i load512(const uint8_t* p) { return _mm512_loadu_si512(p); }
constexpr int A_OR_B_AND_C = 0xf8;  // truth table for ternarylogic

template <Kind K> ZX_INLINE void load_quads(const uint8_t* body, Quads& w) {
    constexpr int bits = layout_of(K).bits;
    if constexpr (bits == 8) {
        for (int quad = 0; quad < 8; ++quad) w.at[quad] = load512(body + quad * 64);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int quad = 0; quad < 4; ++quad) {
        const __m512i both = load512(body + quad * 64);
        w.at[quad] = _mm512_and_si512(both, low);
        w.at[quad + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    if constexpr (K == Kind::B4L) {
        const __m128i raw = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(IQ4_TABLE)), _mm_set1_epi8(char(128)));
        const __m512i table = _mm512_broadcast_i32x4(raw);
        for (int quad = 0; quad < 8; ++quad) w.at[quad] = _mm512_shuffle_epi8(table, w.at[quad]);
    }
    if constexpr (bits == 5) {
        const __m512i plane = load512(body + 256), bit = _mm512_set1_epi8(16);
        for (int quad = 0; quad < 8; ++quad) {
            const __m512i moved = quad < 4 ? _mm512_slli_epi16(plane, unsigned(4 - quad)) : _mm512_srli_epi16(plane, unsigned(quad - 4));
            w.at[quad] = _mm512_ternarylogic_epi64(w.at[quad], moved, bit, A_OR_B_AND_C);
        }
    }
    if constexpr (bits == 6) {
        const __m512i mask = _mm512_set1_epi8(0x30);
        for (int upper = 0; upper < 2; ++upper) {
            const __m512i plane = load512(body + 256 + upper * 64);
            __m512i* to = w.at + upper * 4;
            to[0] = _mm512_ternarylogic_epi64(to[0], _mm512_slli_epi16(plane, 4), mask, A_OR_B_AND_C);
            to[1] = _mm512_ternarylogic_epi64(to[1], _mm512_slli_epi16(plane, 2), mask, A_OR_B_AND_C);
            to[2] = _mm512_ternarylogic_epi64(to[2], plane, mask, A_OR_B_AND_C);
            to[3] = _mm512_ternarylogic_epi64(to[3], _mm512_srli_epi16(plane, 2), mask, A_OR_B_AND_C);
        }
    }
}

// Quads [FIRST, LAST) of the weights of P panels, unsigned, times those of M groups of activations, four products a lane,
// exactly in 32 bits. The offset of the weights is taken off by starting at -offset * sum of the activations. Quad by quad
// over all rows: so many sums are under way that none waits for itself.
template <Kind K, int FIRST, int LAST, int M, int P> ZX_INLINE void dots(const Quads* w, const uint8_t* x, size_t stride, Vec (*products)[1][M]) {
    constexpr int offset = layout_of(K).offset, shift = offset == 128 ? 7 : offset == 32 ? 5 : offset == 16 ? 4 : 3;
    static_assert(offset == 0 || offset == 1 << shift, "offsets are powers of two");
    const auto at = [&](int m) { return reinterpret_cast<const QuantGroup*>(x + size_t(m) * stride); };
    __m512i total[P][M];
    ZX_UNROLL
    for (int m = 0; m < M; ++m) {
        __m512i start = _mm512_setzero_si512();
        if constexpr (offset != 0) {
            if constexpr (LAST - FIRST == 8) start = _mm512_set1_epi32(at(m)->minus_sum);
            else if constexpr (FIRST == 0) start = _mm512_set1_epi32(at(m)->minus_first);
            else start = _mm512_sub_epi32(_mm512_set1_epi32(at(m)->minus_sum), _mm512_set1_epi32(at(m)->minus_first));
            start = _mm512_slli_epi32(start, shift);
        }
        for (int panel = 0; panel < P; ++panel) total[panel][m] = start;
    }
    ZX_UNROLL
    for (int quad = FIRST; quad < LAST; ++quad) {
        ZX_UNROLL
        for (int m = 0; m < M; ++m) {
            int32_t four;
            std::memcpy(&four, at(m)->q + quad * 4, 4);
            for (int panel = 0; panel < P; ++panel)
                total[panel][m] = _mm512_dpbusd_epi32(total[panel][m], w[panel].at[quad], _mm512_set1_epi32(four));
        }
    }
    for (int panel = 0; panel < P; ++panel) {
        ZX_UNROLL
        for (int m = 0; m < M; ++m) products[panel][0][m] = _mm512_cvtepi32_ps(total[panel][m]);
    }
}
