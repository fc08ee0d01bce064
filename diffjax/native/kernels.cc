// XLA handlers of the matrix kernels: the product with a matrix in compressed rows,
// conjugate gradient, and local diffusion.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <vector>

#include "buffers.h"
#include "cg.h"
#include "csr.h"
#include "local.h"
#include "huge_pages.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

#define DIFFJAX_ISA baseline
#define DIFFJAX_TARGET
#define DIFFJAX_BYTES 16
#include "rows.h"
#undef DIFFJAX_ISA
#undef DIFFJAX_TARGET
#undef DIFFJAX_BYTES

#if defined(__x86_64__)
#define DIFFJAX_ISA avx2
#define DIFFJAX_TARGET __attribute__((target("avx2,fma")))
#define DIFFJAX_BYTES 32
#include "rows.h"
#undef DIFFJAX_ISA
#undef DIFFJAX_TARGET
#undef DIFFJAX_BYTES
#endif

namespace diffjax {
namespace {

// Loops for the best instructions of this processor or, if not `best`, for those that
// every processor of its kind has.
template <typename T>
const RowLoops<T>& loops_for(int64_t columns, bool use_best) {
#if defined(__x86_64__)
  if (use_best && has_avx2()) return avx2::loops_for<T>(columns);
#endif
  return baseline::loops_for<T>(columns);
}

// Y = A X for any number of columns, block after block.
template <typename T>
void multiply(const Csr<T>& a, int64_t columns, bool use_best, const T* x, T* y,
              Workers& workers) {
  for (int64_t first_column = 0; first_column < columns;) {
    const RowLoops<T>& loops = loops_for<T>(columns - first_column, use_best);
    const int64_t width = loops.width, count = std::min(columns - first_column, width);
    const std::vector<int64_t> boundaries = partition_rows(a, width);
    const int64_t parts = static_cast<int64_t>(boundaries.size()) - 1;
    const T* x_block = x + first_column;  // The block, in rows of all columns.
    // Whole vectors are read: a block of another width is padded.
    PagedArray<T> padded(count == width ? 0 : a.rows * width);
    if (count != width) {
      workers.for_each(parts, [&](int64_t part) {
        for (int64_t row = boundaries[part]; row < boundaries[part + 1]; ++row) {
          T* padded_row = padded.get() + row * width;
          std::copy_n(x_block + row * columns, count, padded_row);
          std::fill(padded_row + count, padded_row + width, T{0});
        }
      });
    }
    const T* block = count == width ? x_block : padded.get();
    const int64_t block_stride = count == width ? columns : width;
    workers.for_each(parts, [&](int64_t part) {
      loops.multiply(a, boundaries[part], boundaries[part + 1], block, block_stride,
                     y + first_column, columns, count);
    });
    first_column += count;
  }
}

// Y = A^T X. Every part owns some rows of Y and reads all entries of A in order, so
// that no two threads add to one sum and sums do not depend on the number of threads.
template <typename T>
void multiply_transposed(const Csr<T>& a, int64_t columns, const T* x, T* y,
                         Workers& workers) {
  const int64_t parts = std::min(workers.threads(), a.rows);
  workers.for_each(parts, [&](int64_t part) {
    const int64_t first = a.rows * part / parts, last = a.rows * (part + 1) / parts;
    std::fill(y + first * columns, y + last * columns, T{0});
    for (int64_t row = 0; row < a.rows; ++row) {
      const T* x_row = x + row * columns;
      for (int64_t entry = a.start(row); entry < a.start(row + 1); ++entry) {
        const int64_t column = a.column(entry);
        if (column < first || column >= last) continue;
        const T weight = a.weights[entry];
        for (int64_t c = 0; c < columns; ++c)
          y[column * columns + c] += weight * x_row[c];
      }
    }
  });
}

template <ffi::DataType Type>
ffi::Error product(ffi::ThreadPool pool, bool transposed, bool use_best,
                   ffi::BufferR1<Type> weights, ffi::BufferR1<ffi::S32> indices,
                   ffi::AnyBuffer starts, ffi::BufferR2<Type> x,
                   ffi::ResultBufferR2<Type> y) try {
  const auto a = read_matrix(weights, indices, starts);
  const auto shape = x.dimensions();
  require(shape[0] == a.rows, "x must have one row for every row of the matrix");
  require(shape == y->dimensions(), "the result must have the shape of x");
  if (x.element_count() == 0) return ffi::Error::Success();
  Workers workers(pool);
  if (transposed) {
    multiply_transposed(a, shape[1], x.typed_data(), y->typed_data(), workers);
  } else {
    multiply(a, shape[1], use_best, x.typed_data(), y->typed_data(), workers);
  }
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
}

// Columns that are solved side by side.
constexpr int64_t kMaxCgColumns = 32;

template <ffi::DataType Type>
ffi::Error cg(ffi::ThreadPool pool, bool keep_best, bool use_best,
              ffi::BufferR1<Type> weights, ffi::BufferR1<ffi::S32> indices,
              ffi::AnyBuffer starts, ffi::BufferR2<Type> alpha, ffi::BufferR2<Type> y,
              ffi::BufferR0<Type> rtol_squared, ffi::BufferR0<ffi::S32> max_steps,
              ffi::ResultBufferR2<Type> value, ffi::ResultBufferR2<Type> residual,
              ffi::ResultBufferR2<ffi::S32> num_steps) try {
  using T = Number<Type>;
  const Csr<T> a = read_matrix(weights, indices, starts);
  const int64_t columns = y.dimensions()[1];
  require(y.dimensions()[0] == a.rows, "y must have one row for every row of A");
  require(y.dimensions() == value->dimensions(), "value must have the shape of y");
  require(static_cast<int64_t>(alpha.element_count()) == columns &&
              static_cast<int64_t>(residual->element_count()) == columns &&
              static_cast<int64_t>(num_steps->element_count()) == columns,
          "alpha, residual and steps must have one entry per column of y");
  if (y.element_count() == 0) return ffi::Error::Success();
  const StopCriterion<T> stop{*rtol_squared.typed_data(), *max_steps.typed_data(),
                              keep_best};
  Workers workers(pool);
  // Columns are independent: blocks of columns keep the working set small and still
  // read the matrix rarely.
  for (int64_t first_column = 0; first_column < columns;) {
    const int64_t count = std::min(columns - first_column, kMaxCgColumns);
    const RowLoops<T>& loops = loops_for<T>(count, use_best);
    const int64_t width = std::min(count, loops.width);
    const IterationResult<T> result{value->typed_data() + first_column,
                                    residual->typed_data() + first_column,
                                    num_steps->typed_data() + first_column};
    ConjugateGradient<T>(a, loops, columns, width, stop, workers)
        .solve(alpha.typed_data() + first_column, y.typed_data() + first_column,
               result);
    first_column += width;
  }
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
}

template <ffi::DataType Type>
ffi::Error local(ffi::ThreadPool pool, ffi::BufferR1<Type> weights,
                 ffi::BufferR1<ffi::S32> indices, ffi::AnyBuffer starts,
                 ffi::BufferR1<Type> alpha, ffi::BufferR2<ffi::S32> seeds,
                 ffi::BufferR2<Type> seed_values, ffi::BufferR0<Type> rtol_squared,
                 ffi::BufferR0<ffi::S32> steps_per_expansion,
                 ffi::BufferR0<ffi::S32> max_steps, ffi::ResultBufferR2<ffi::S32> nodes,
                 ffi::ResultBufferR2<Type> scores, ffi::ResultBufferR1<Type> residual,
                 ffi::ResultBufferR1<ffi::S32> num_steps) try {
  using T = Number<Type>;
  const Csr<T> a = read_matrix(weights, indices, starts);
  const int64_t num_queries = seeds.dimensions()[0], num_seeds = seeds.dimensions()[1];
  const int64_t size = nodes->dimensions()[1];
  require(seeds.dimensions() == seed_values.dimensions(),
          "seeds and values must be of one shape");
  require(nodes->dimensions() == scores->dimensions() &&
              nodes->dimensions()[0] == num_queries && size >= num_seeds,
          "results must have a row for every query, and no fewer places than seeds");
  require(static_cast<int64_t>(alpha.element_count()) == num_queries &&
              static_cast<int64_t>(residual->element_count()) == num_queries &&
              static_cast<int64_t>(num_steps->element_count()) == num_queries,
          "alpha, residual and steps must have one entry per query");
  const LocalLimits<T> limits{size, *steps_per_expansion.typed_data(),
                              *max_steps.typed_data(), *rtol_squared.typed_data()};
  Workers workers(pool);
  workers.for_each(num_queries, [&](int64_t query) {
    // Reused by the next query of this thread: a small query would spend most of its
    // time on pages of new memory.
    thread_local LocalDiffusion<T> diffusion;
    diffusion.solve(a, alpha.typed_data()[query], limits, num_seeds,
                    seeds.typed_data() + query * num_seeds,
                    seed_values.typed_data() + query * num_seeds,
                    nodes->typed_data() + query * size,
                    scores->typed_data() + query * size, residual->typed_data() + query,
                    num_steps->typed_data() + query);
  });
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
}

template <ffi::DataType Type>
auto bind_local() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::BufferR1<Type>>()
      .template Arg<ffi::BufferR1<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<ffi::BufferR1<Type>>()
      .template Arg<ffi::BufferR2<ffi::S32>>()
      .template Arg<ffi::BufferR2<Type>>()
      .template Arg<ffi::BufferR0<Type>>()
      .template Arg<ffi::BufferR0<ffi::S32>>()
      .template Arg<ffi::BufferR0<ffi::S32>>()
      .template Ret<ffi::BufferR2<ffi::S32>>()
      .template Ret<ffi::BufferR2<Type>>()
      .template Ret<ffi::BufferR1<Type>>()
      .template Ret<ffi::BufferR1<ffi::S32>>();
}

template <ffi::DataType Type>
auto bind_product() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<bool>("transposed")
      .Attr<bool>("best")
      .Arg<ffi::BufferR1<Type>>()
      .template Arg<ffi::BufferR1<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<ffi::BufferR2<Type>>()
      .template Ret<ffi::BufferR2<Type>>();
}

template <ffi::DataType Type>
auto bind_cg() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<bool>("keep_best")
      .Attr<bool>("best")
      .Arg<ffi::BufferR1<Type>>()
      .template Arg<ffi::BufferR1<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<ffi::BufferR2<Type>>()
      .template Arg<ffi::BufferR2<Type>>()
      .template Arg<ffi::BufferR0<Type>>()
      .template Arg<ffi::BufferR0<ffi::S32>>()
      .template Ret<ffi::BufferR2<Type>>()
      .template Ret<ffi::BufferR2<Type>>()
      .template Ret<ffi::BufferR2<ffi::S32>>();
}

}  // namespace
}  // namespace diffjax

using xla::ffi::F32;
using xla::ffi::F64;

extern "C" {

DIFFJAX_HANDLER(diffjax_csr_product_float32, product<F32>, bind_product<F32>())
DIFFJAX_HANDLER(diffjax_csr_product_float64, product<F64>, bind_product<F64>())
DIFFJAX_HANDLER(diffjax_csr_cg_float32, cg<F32>, bind_cg<F32>())
DIFFJAX_HANDLER(diffjax_csr_cg_float64, cg<F64>, bind_cg<F64>())
DIFFJAX_HANDLER(diffjax_csr_local_float32, local<F32>, bind_local<F32>())
DIFFJAX_HANDLER(diffjax_csr_local_float64, local<F64>, bind_local<F64>())

// Version of the exports and of the arguments and results of their calls;
// diffjax/native/_library.py has the same number.
DIFFJAX_EXPORT int diffjax_abi() { return 3; }

// Name of the best instruction set of this processor that has loops.
DIFFJAX_EXPORT const char* diffjax_instructions() {
  return diffjax::has_avx2() ? "AVX2" : "baseline";
}

}  // extern "C"
