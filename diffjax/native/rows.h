// Innermost loops on a range of rows. Included once for every instruction set, with
// DIFFJAX_ISA as its name, DIFFJAX_TARGET as the attribute that makes the compiler use
// it, and vectors of at most DIFFJAX_BYTES: hence no include guard.
//
// All blocks of columns are W = Lanes * Units wide: one row of a block is Units vectors
// of Lanes numbers, which stay in registers during the loop over the entries of a
// matrix row.

namespace diffjax::DIFFJAX_ISA {

#define DIFFJAX_INLINE DIFFJAX_TARGET __attribute__((always_inline)) inline

// SIMD vector without alignment; the compiler provides its arithmetic.
template <typename T, int Lanes>
struct VectorOf {
  typedef T Type
      __attribute__((vector_size(sizeof(T) * Lanes), aligned(alignof(T)), may_alias));
};
template <typename T>
struct VectorOf<T, 1> {
  typedef T Type;
};

template <typename T, int Lanes, int Units>
struct Rows {
  using Vector = typename VectorOf<T, Lanes>::Type;
  static constexpr int64_t kWidth = Lanes * Units;
  // Sums of one block of rows are in T, sums of blocks in double: about the error of
  // pairwise summation, at no cost.
  static constexpr int64_t kBlock = 64;
  // Distance in entries between prefetching a row of X and using it.
  static constexpr int64_t kAhead = 16;
  // Number of independent sums, as many as registers allow.
  static constexpr int kSums = Units <= 2 ? 4 : Units <= 6 ? 2 : 1;

  DIFFJAX_INLINE static Vector load(const T* source, int unit) {
    return *reinterpret_cast<const Vector*>(source + unit * Lanes);
  }

  DIFFJAX_INLINE static void store(T* target, int unit, Vector value) {
    *reinterpret_cast<Vector*>(target + unit * Lanes) = value;
  }

  // One row of A X. X has `stride` numbers a row.
  DIFFJAX_INLINE static void multiply_row(const Csr<T>& a, int64_t row, const T* x,
                                          int64_t stride, Vector* sum) {
    const int64_t last = a.start(row + 1);
    int64_t entry = a.start(row);
    // Several sums, because additions to one would wait for each other.
    Vector sums[kSums][Units] = {};
    for (; entry + kSums <= last; entry += kSums) {
      if (entry + kAhead + kSums <= a.entries) {
        for (int i = 0; i < kSums; ++i) {
          prefetch_row(x + a.indices[entry + kAhead + i] * stride);
        }
      }
      for (int i = 0; i < kSums; ++i) add_entry(a, entry + i, x, stride, sums[i]);
    }
    for (; entry < last; ++entry) add_entry(a, entry, x, stride, sums[0]);
    for (int unit = 0; unit < Units; ++unit) {
      sum[unit] = sums[0][unit];
      for (int i = 1; i < kSums; ++i) sum[unit] += sums[i][unit];
    }
  }

  DIFFJAX_INLINE static void add_entry(const Csr<T>& a, int64_t entry, const T* x,
                                       int64_t stride, Vector* sum) {
    const T* source = x + a.column(entry) * stride;
    const T weight = a.weights[entry];
    for (int unit = 0; unit < Units; ++unit) sum[unit] += weight * load(source, unit);
  }

  // Gathered rows may lie anywhere: they are prefetched some entries ahead, also those
  // of the next matrix rows. For less than a cache line the processor has enough loads
  // in flight by itself.
  DIFFJAX_INLINE static void prefetch_row(const T* row) {
    constexpr int64_t kBytes = kWidth * sizeof(T);
    if (kBytes < 64) return;
    for (int64_t byte = 0; byte < kBytes; byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(row) + byte);
    }
  }

  // Rows of Y = A X; the first `columns` of the block are written to Y.
  DIFFJAX_TARGET static void multiply(const Csr<T>& a, int64_t first, int64_t last,
                                      const T* x, int64_t x_stride, T* y,
                                      int64_t y_stride, int64_t columns) {
    for (int64_t row = first; row < last; ++row) {
      Vector sum[Units];
      multiply_row(a, row, x, x_stride, sum);
      T padded[kWidth];
      T* target = columns == kWidth ? y + row * y_stride : padded;
      for (int unit = 0; unit < Units; ++unit) store(target, unit, sum[unit]);
      if (target == padded) std::copy_n(padded, columns, y + row * y_stride);
    }
  }

  // Q = P - alpha A P and, column by column, the sum of P Q over these rows.
  DIFFJAX_TARGET static void apply_system(const Csr<T>& a, int64_t first, int64_t last,
                                          const T* alpha, const T* p, T* q,
                                          double* total) {
    std::fill(total, total + kWidth, 0.0);
    for (int64_t block = first; block < last; block += kBlock) {
      Vector dot[Units] = {};
      for (int64_t row = block; row < std::min(block + kBlock, last); ++row) {
        Vector sum[Units];
        multiply_row(a, row, p, kWidth, sum);
        const T* p_row = p + row * kWidth;
        for (int unit = 0; unit < Units; ++unit) {
          const Vector direction = load(p_row, unit);
          const Vector product = direction - load(alpha, unit) * sum[unit];
          store(q + row * kWidth, unit, product);
          dot[unit] += direction * product;
        }
      }
      add_to_total(dot, total);
    }
  }

  // R -= step Q and, column by column, the sum of R^2 over these rows.
  DIFFJAX_TARGET static void update_residual(int64_t first, int64_t last, const T* step,
                                             const T* q, T* r, double* total) {
    std::fill(total, total + kWidth, 0.0);
    for (int64_t block = first; block < last; block += kBlock) {
      Vector dot[Units] = {};
      for (int64_t row = block; row < std::min(block + kBlock, last); ++row) {
        const int64_t offset = row * kWidth;
        for (int unit = 0; unit < Units; ++unit) {
          const Vector step_length = load(step, unit);
          const Vector residual =
              load(r + offset, unit) - step_length * load(q + offset, unit);
          store(r + offset, unit, residual);
          dot[unit] += residual * residual;
        }
      }
      add_to_total(dot, total);
    }
  }

  // X += step P, then P = R + turn P, in one loop, so that P is read once for both.
  DIFFJAX_TARGET static void update_solution(int64_t first, int64_t last, const T* step,
                                             const T* turn, const T* r, T* p, T* x) {
    for (int64_t offset = first * kWidth; offset < last * kWidth; offset += kWidth) {
      for (int unit = 0; unit < Units; ++unit) {
        const Vector direction = load(p + offset, unit);
        store(x + offset, unit, load(x + offset, unit) + load(step, unit) * direction);
        store(p + offset, unit, load(r + offset, unit) + load(turn, unit) * direction);
      }
    }
  }

  DIFFJAX_INLINE static void add_to_total(const Vector* dot, double* total) {
    T numbers[kWidth];
    for (int unit = 0; unit < Units; ++unit) store(numbers, unit, dot[unit]);
    for (int64_t c = 0; c < kWidth; ++c) total[c] += numbers[c];
  }
};

template <typename T, int Lanes, int Units>
constexpr RowLoops<T> kLoops = {
    Rows<T, Lanes, Units>::kWidth, Rows<T, Lanes, Units>::multiply,
    Rows<T, Lanes, Units>::apply_system, Rows<T, Lanes, Units>::update_residual,
    Rows<T, Lanes, Units>::update_solution};

// The narrowest loops that take that many columns, or else the widest.
template <typename T>
const RowLoops<T>& loops_for(int64_t columns) {
  constexpr int kNarrow = 16 / sizeof(T), kWide = DIFFJAX_BYTES / sizeof(T);
  if (columns == 1) return kLoops<T, 1, 1>;
  if (columns <= kNarrow) return kLoops<T, kNarrow, 1>;
  if (columns <= kWide) return kLoops<T, kWide, 1>;
  if (columns <= 2 * kWide) return kLoops<T, kWide, 2>;
  if (columns <= 3 * kWide) return kLoops<T, kWide, 3>;
  if (columns <= 4 * kWide) return kLoops<T, kWide, 4>;
  if (columns <= 6 * kWide) return kLoops<T, kWide, 6>;
  return kLoops<T, kWide, 8>;
}

#undef DIFFJAX_INLINE

}  // namespace diffjax::DIFFJAX_ISA
