// The kernels, included once for each instruction set, which says its widest vector: LANES floats.

template <int lanes>
struct VectorOf {
    typedef float type __attribute__((vector_size(4 * lanes)));
};
template <>
struct VectorOf<1> {
    typedef float type;
};

template <class V>
SCAN_INLINE V load(const float *from)
{
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
SCAN_INLINE void store(float *to, V v)
{
    __builtin_memcpy(to, &v, sizeof v);
}

// Past the caches, for arrays that they cannot hold anyway: `to` is aligned to the vector.
template <class V>
SCAN_INLINE void store_far(float *to, V v)
{
#if defined(__clang__)
    __builtin_nontemporal_store(v, reinterpret_cast<V *>(to));
#elif defined(__x86_64__)
    if constexpr (sizeof v == 64)
        _mm512_stream_ps(to, reinterpret_cast<__m512>(v));
    else if constexpr (sizeof v == 32)
        _mm256_stream_ps(to, reinterpret_cast<__m256>(v));
    else if constexpr (sizeof v == 16)
        _mm_stream_ps(to, reinterpret_cast<__m128>(v));
    else
        store(to, v);
#else
    store(to, v);
#endif
}

template <bool far, class V>
SCAN_INLINE void put(float *to, V v)
{
    if constexpr (far)
        store_far(to, v);
    else
        store(to, v);
}

// L rows of M vectors. A row waits for the one before, as long as a multiply-add takes; with few columns nothing else
// fills that time. So the state after L rows is found from the state before them in one multiply-add, by the product
// of their factors, which does not wait for it.
template <class V, int M, int L, Kind kind, bool far>
SCAN_INLINE void take_rows(const Rows &rows, ptrdiff_t t, V *state, V *sum)
{
    constexpr ptrdiff_t lanes = sizeof(V) / 4;
    V a[L][M], x[L][M];
    SCAN_UNROLL
    for (int l = 0; l < L; l++) {
        SCAN_UNROLL
        for (int m = 0; m < M; m++) {
            a[l][m] = load<V>(rows.a + (t + l) * rows.a_step + m * lanes);
            x[l][m] = load<V>(rows.x + (t + l) * rows.step + m * lanes);
        }
    }
    SCAN_UNROLL
    for (int m = 0; m < M; m++) {
        V product = a[0][m], local = x[0][m], y = state[m];
        SCAN_UNROLL
        for (int l = 1; l < L; l++) {
            local = a[l][m] * local + x[l][m];
            product = a[l][m] * product;
        }
        state[m] = product * state[m] + local;
        SCAN_UNROLL
        for (int l = 0; l < L; l++) {
            y = l + 1 < L ? a[l][m] * y + x[l][m] : state[m];
            ptrdiff_t at = (t + l) * rows.step + m * lanes;
            put<far>(rows.y + at, y);
            if (kind == Kind::slopes) put<far>(rows.slope + at, V(load<V>(rows.before + at) * y));
            if (kind == Kind::slope_sums) sum[m] = load<V>(rows.before + at) * y + sum[m];
        }
    }
}

template <class V, int M, int L, Kind kind, bool far>
SCAN_INLINE void take_panel(const Rows &rows, ptrdiff_t count, float *state)
{
    constexpr ptrdiff_t lanes = sizeof(V) / 4;
    V s[M], sum[M];
    for (int m = 0; m < M; m++) {
        s[m] = load<V>(state + m * lanes);
        sum[m] = V{};
    }
    ptrdiff_t t = 0;
    for (; t + L <= count; t += L) take_rows<V, M, L, kind, far>(rows, t, s, sum);
    for (; t < count; t++) take_rows<V, M, 1, kind, far>(rows, t, s, sum);
    for (int m = 0; m < M; m++) {
        store(state + m * lanes, s[m]);
        if (kind == Kind::slope_sums) store(rows.slope + m * lanes, load<V>(rows.slope + m * lanes) + sum[m]);
    }
}

// Whole rows one after the other, and each in the direction in which they are taken: memory is read ahead only where
// addresses all rise or all fall. The state stays in the nearest cache.
template <Kind kind, bool far>
SCAN_INLINE void take_wide(const Rows &rows, ptrdiff_t count, ptrdiff_t width, float *state)
{
    using V = typename VectorOf<LANES>::type;
    ptrdiff_t last = width - LANES;
    for (ptrdiff_t t = 0; t < count; t++) {
        const float *a = rows.a + t * rows.a_step;
        for (ptrdiff_t i = 0; i <= last; i += LANES) {
            ptrdiff_t c = rows.step < 0 ? last - i : i, at = t * rows.step + c;
            V y = load<V>(a + c) * load<V>(state + c) + load<V>(rows.x + at);
            store(state + c, y);
            put<far>(rows.y + at, y);
            if (kind == Kind::slopes) put<far>(rows.slope + at, V(load<V>(rows.before + at) * y));
            if (kind == Kind::slope_sums) store(rows.slope + c, V(load<V>(rows.before + at) * y + load<V>(rows.slope + c)));
        }
    }
}

template <class V, int M>
SCAN_INLINE void reduce_panel(const Rows &rows, ptrdiff_t count, float *state, float *product)
{
    constexpr ptrdiff_t lanes = sizeof(V) / 4;
    constexpr int L = 4;
    V s[M], p[M];
    for (int m = 0; m < M; m++) {
        s[m] = load<V>(state + m * lanes);
        p[m] = load<V>(product + m * lanes);
    }
    auto take = [&](ptrdiff_t t, auto length) {
        for (int m = 0; m < M; m++) {
            V factor = load<V>(rows.a + t * rows.a_step + m * lanes), local = load<V>(rows.x + t * rows.step + m * lanes);
            SCAN_UNROLL
            for (int l = 1; l < length.value; l++) {
                V a = load<V>(rows.a + (t + l) * rows.a_step + m * lanes);
                local = a * local + load<V>(rows.x + (t + l) * rows.step + m * lanes);
                factor = a * factor;
            }
            s[m] = factor * s[m] + local;
            p[m] = factor * p[m];
        }
    };
    ptrdiff_t t = 0;
    for (; t + L <= count; t += L) take(t, std::integral_constant<int, L>());
    for (; t < count; t++) take(t, std::integral_constant<int, 1>());
    for (int m = 0; m < M; m++) {
        store(state + m * lanes, s[m]);
        store(product + m * lanes, p[m]);
    }
}

// Panels from column `first` on: four, two and one of this width, then narrower ones.
template <int lanes, class Visit>
SCAN_INLINE void cut(ptrdiff_t first, ptrdiff_t width, const Visit &visit)
{
    using V = typename VectorOf<lanes>::type;
    for (; width - first >= 4 * lanes; first += 4 * lanes) visit(first, V{}, std::integral_constant<int, 4>());
    if (width - first >= 2 * lanes) {
        visit(first, V{}, std::integral_constant<int, 2>());
        first += 2 * lanes;
    }
    if (width - first >= lanes) {
        visit(first, V{}, std::integral_constant<int, 1>());
        first += lanes;
    }
    if constexpr (lanes == 4)
        cut<1>(first, width, visit);
    else if constexpr (lanes > 4)
        cut<lanes / 2>(first, width, visit);
}

template <Kind kind, bool far>
void take(const Rows &all, ptrdiff_t count, ptrdiff_t width, float *state)
{
    ptrdiff_t wide = width < 4 * LANES ? 0 : width / LANES * LANES;
    for_blocks(all, count, width, [&](const Rows &rows, ptrdiff_t some) {
        if (wide) take_wide<kind, far>(rows, some, wide, state);
        cut<LANES>(wide, width, [&](ptrdiff_t column, auto vector, auto panel) {
            constexpr int M = decltype(panel)::value;
            take_panel<decltype(vector), M, 4 / M, kind, far>(rows.from_column(column), some, state + column);
        });
    });
#if defined(__x86_64__)
    if (far) _mm_sfence();
#endif
}

void reduce(const Rows &all, ptrdiff_t count, ptrdiff_t width, float *state, float *product)
{
    for_blocks(all, count, width, [&](const Rows &rows, ptrdiff_t some) {
        cut<LANES>(0, width, [&](ptrdiff_t column, auto vector, auto panel) {
            constexpr int M = decltype(panel)::value;
            reduce_panel<decltype(vector), M>(rows.from_column(column), some, state + column, product + column);
        });
    });
}

const Kernels kernels = {
    {{take<Kind::states, false>, take<Kind::slopes, false>, take<Kind::slope_sums, false>},
     {take<Kind::states, true>, take<Kind::slopes, true>, take<Kind::slope_sums, true>}},
    reduce,
};
