// Vector primitives for AVX2 with FMA and F16C: 8 lanes, two of which make the 16 rows of a panel.

constexpr int LANES = 8;
using Vec = __m256;
#define ZX_UNROLL  // see simd_avx512.h
// In front of a loop over the quads of a group.
#if defined(__clang__)
#define ZX_ALL_OF_8 _Pragma("unroll")
#elif defined(__GNUC__)
#define ZX_ALL_OF_8 _Pragma("GCC unroll 8")
#else
#define ZX_ALL_OF_8
#endif

ZX_INLINE Vec vset(float x) { return _mm256_set1_ps(x); }
ZX_INLINE Vec vload(const float* p) { return _mm256_loadu_ps(p); }
ZX_INLINE Vec vload_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
ZX_INLINE Vec vload_bf16(const uint16_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
ZX_INLINE Vec vload_u8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
ZX_INLINE Vec vload_i8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
ZX_INLINE Vec vadd(Vec a, Vec b) { return _mm256_add_ps(a, b); }
ZX_INLINE Vec vsub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
ZX_INLINE Vec vmul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
ZX_INLINE Vec vdiv(Vec a, Vec b) { return _mm256_div_ps(a, b); }
ZX_INLINE Vec vfma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
ZX_INLINE Vec vmax(Vec a, Vec b) { return _mm256_max_ps(a, b); }
ZX_INLINE Vec vmin(Vec a, Vec b) { return _mm256_min_ps(a, b); }
ZX_INLINE Vec vabs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
ZX_INLINE Vec vround(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
ZX_INLINE Vec vpow2(Vec n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
ZX_INLINE Vec vsign_of(Vec magnitude, Vec sign) {
    return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
ZX_INLINE Vec vwithin(Vec a, Vec b, int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane), high = _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_andnot_si256(low, high)));
}
ZX_INLINE void vstore(float* p, Vec a) { _mm256_storeu_ps(p, a); }
ZX_INLINE void vstore_i8(int8_t* p, Vec a) {
    const __m256i whole = _mm256_cvtps_epi32(a);
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(half, half));
}
ZX_INLINE void vstore_half(uint16_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
ZX_INLINE float vsum(Vec a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ZX_INLINE float vhighest(Vec a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
ZX_INLINE int32_t sum_of_16(const int8_t* q) {
    const __m128i biased = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)), _mm_set1_epi8(char(128)));
    const __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}
ZX_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
ZX_INLINE void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// Where the weights of one group lie; they are unpacked quad by quad as they are needed, because 16 registers hold no more.
struct Quads { const uint8_t* body; };

ZX_INLINE __m256i load256(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

template <int Q> ZX_INLINE __m256i sixth_bits(__m256i plane) {  // two bits of quad Q of a plane, moved to 0x30
    const __m256i mask = _mm256_set1_epi8(0x30);
    if (Q == 0) return _mm256_and_si256(_mm256_slli_epi16(plane, 4), mask);
    if (Q == 1) return _mm256_and_si256(_mm256_slli_epi16(plane, 2), mask);
    if (Q == 2) return _mm256_and_si256(plane, mask);
    return _mm256_and_si256(_mm256_srli_epi16(plane, 2), mask);
}

template <Kind K> ZX_INLINE void load_quads(const uint8_t* body, Quads& w) { w.body = body; }

// One quad of 8 rows, unsigned; 8 bits and what comes from a table signed. `part` says which half of the panel.
template <Kind K> ZX_INLINE __m256i quad_at(const uint8_t* body, int part, int quad) {
    constexpr int bits = layout_of(K).bits;
    body += part * 32;
    if constexpr (bits == 8) return _mm256_xor_si256(load256(body + quad * 64), _mm256_set1_epi8(char(128)));
    const __m256i both = load256(body + quad % 4 * 64);
    __m256i w = _mm256_and_si256(quad < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
    if constexpr (K == Kind::B4L)
        w = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(IQ4_TABLE))), w);
    if constexpr (bits == 5) {
        const __m256i plane = load256(body + 256);
        const __m256i moved = quad < 4 ? _mm256_slli_epi16(plane, 4 - quad) : _mm256_srli_epi16(plane, quad - 4);
        w = _mm256_or_si256(w, _mm256_and_si256(moved, _mm256_set1_epi8(16)));
    }
    if constexpr (bits == 6) {
        const __m256i plane = load256(body + 256 + quad / 4 * 64);
        const __m256i upper = quad % 4 == 0 ? sixth_bits<0>(plane) : quad % 4 == 1 ? sixth_bits<1>(plane)
                            : quad % 4 == 2 ? sixth_bits<2>(plane) : sixth_bits<3>(plane);
        w = _mm256_or_si256(w, upper);
    }
    return w;
}

ZX_INLINE __m256i broadcast_quad(const int8_t* x) { int32_t four; std::memcpy(&four, x, 4); return _mm256_set1_epi32(four); }

template <int FIRST, int LAST> ZX_INLINE int32_t minus_sum(const QuantGroup& x) {
    return LAST - FIRST == 8 ? x.minus_sum : FIRST == 0 ? x.minus_first : x.minus_sum - x.minus_first;
}

// A sum that is to be made now. GCC turns a chain of sums into a tree, whose branches do not fit the registers.
ZX_INLINE __m256i in_order(__m256i sum) {
#if defined(__GNUC__)
    __asm__("" : "+x"(sum));
#endif
    return sum;
}

// Quads [FIRST, LAST) of a panel with M groups of activations: each of those is broadcast once for both halves of the panel.
// maddubs adds two products into 16 bits; as many of its results are added there as cannot overflow:
// 8 quads of 4 bits (8 * 2 * 15 * 127 = 30480), 4 of 5 bits (31496), 2 of 6 bits (32004), 1 of 8 bits (2 * 128 * 127).
template <Kind K, int FIRST, int LAST, int M> ZX_INLINE void dots_of_panel(const uint8_t* body, const uint8_t* x, size_t stride, Vec (*products)[M]) {
    constexpr int bits = K == Kind::B4L ? 8 : layout_of(K).bits, run = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    constexpr int offset = bits == 8 ? 0 : layout_of(K).offset;
    const auto group = [&](int m) { return reinterpret_cast<const QuantGroup*>(x + size_t(m) * stride); };
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i total[2][M];
    ZX_ALL_OF_8
    for (int first = FIRST; first < LAST; first += run) {
        __m256i pairs[2][M];
        ZX_ALL_OF_8
        for (int quad = first; quad < first + run; ++quad) {
            const __m256i w[2] = {quad_at<K>(body, 0, quad), quad_at<K>(body, 1, quad)};
            const __m256i size[2] = {_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])};
            for (int m = 0; m < M; ++m) {
                const __m256i four = broadcast_quad(group(m)->q + quad * 4);
                for (int part = 0; part < 2; ++part) {
                    __m256i& sum = pairs[part][m];
                    if constexpr (bits == 8) {  // weights may be -128, activations may not: so these take the sign
                        sum = _mm256_maddubs_epi16(size[part], _mm256_sign_epi8(four, w[part]));
                    } else {
                        const __m256i two = _mm256_maddubs_epi16(w[part], four);
                        sum = quad == first ? two : in_order(_mm256_add_epi16(sum, two));
                    }
                }
            }
        }
        for (int part = 0; part < 2; ++part)
            for (int m = 0; m < M; ++m) {
                const __m256i four = _mm256_madd_epi16(pairs[part][m], ones);
                total[part][m] = first == FIRST ? four : in_order(_mm256_add_epi32(total[part][m], four));
            }
    }
    for (int part = 0; part < 2; ++part)
        for (int m = 0; m < M; ++m) {
            if constexpr (offset != 0) total[part][m] = _mm256_add_epi32(total[part][m], _mm256_set1_epi32(offset * minus_sum<FIRST, LAST>(*group(m))));
            products[part][m] = _mm256_cvtepi32_ps(total[part][m]);
        }
}

template <Kind K, int FIRST, int LAST, int M, int P> ZX_INLINE void dots(const Quads* w, const uint8_t* x, size_t stride, Vec (*products)[2][M]) {
    for (int panel = 0; panel < P; ++panel) dots_of_panel<K, FIRST, LAST, M>(w[panel].body, x, stride, products[panel]);
}
