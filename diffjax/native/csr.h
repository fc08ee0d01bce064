// A matrix in compressed rows, and its partition into row ranges for threads.

#ifndef DIFFJAX_NATIVE_CSR_H_
#define DIFFJAX_NATIVE_CSR_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace diffjax {

// Row i of an n x n matrix holds the entries starts[i] .. starts[i + 1] - 1.
template <typename T>
struct Csr {
  const T* weights;
  const int32_t* indices;
  const int32_t* starts32;  // Row starts are in one of the two: 64 bits are
  const int64_t* starts64;  // needed from 2^31 entries on.
  int64_t rows;
  int64_t entries;

  // Clamped, so that bad starts do not read out of bounds, which would crash Python.
  int64_t start(int64_t row) const {
    const int64_t start_entry = starts64 != nullptr ? starts64[row] : starts32[row];
    return std::clamp<int64_t>(start_entry, 0, entries);
  }

  int64_t column(int64_t entry) const {
    const auto index = static_cast<uint32_t>(indices[entry]);
    return std::min<uint32_t>(index, static_cast<uint32_t>(rows - 1));
  }
};

// Cuts the rows into parts of about the same work, counted in entries plus rows. The
// parts depend on the matrix and not on the threads, so that sums over parts do not
// depend on the number of threads.
template <typename T>
std::vector<int64_t> partition_rows(const Csr<T>& a, int64_t columns) {
  // A part smaller than kMinWork takes about as long as scheduling it; more than
  // kMaxParts parts do not improve the balance.
  constexpr int64_t kMinWork = 1 << 16;
  constexpr int64_t kMaxParts = 128;
  const int64_t work = (a.entries + a.rows) * columns;
  const int64_t parts =
      std::clamp<int64_t>(work / kMinWork, 1, std::min(kMaxParts, a.rows));
  std::vector<int64_t> boundaries(parts + 1, 0);
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t target = (a.entries + a.rows) / parts * part;
    int64_t low = boundaries[part - 1], high = a.rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (a.start(middle) + middle < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    boundaries[part] = low;
  }
  boundaries[parts] = a.rows;
  return boundaries;
}

// Innermost loops for blocks of `width` columns, compiled from rows.h for each
// instruction set. Every loop takes the first row and the one past the last.
template <typename T>
struct RowLoops {
  int64_t width;
  // Y = A X.
  void (*multiply)(const Csr<T>& a, int64_t first, int64_t last, const T* x,
                   int64_t x_stride, T* y, int64_t y_stride, int64_t columns);
  // Q = P - alpha A P and the sums of P Q.
  void (*apply_system)(const Csr<T>& a, int64_t first, int64_t last, const T* alpha,
                       const T* p, T* q, double* total);
  // R -= step Q and the sums of R^2.
  void (*update_residual)(int64_t first, int64_t last, const T* step, const T* q, T* r,
                          double* total);
  // X += step P, then P = R + turn P.
  void (*update_solution)(int64_t first, int64_t last, const T* step, const T* turn,
                          const T* r, T* p, T* x);
};

// Width of the widest loops.
constexpr int64_t kMaxColumns = 64;

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_CSR_H_
