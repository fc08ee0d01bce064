// XLA handlers of the list kernels: mutual slots, and compressed rows of lists.

#include <cstdint>
#include <exception>

#include "buffers.h"
#include "csr.h"
#include "neighbor_lists.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

#define DIFFJAX_ISA baseline
#define DIFFJAX_TARGET
#define DIFFJAX_BYTES 16
#include "find_node.h"
#undef DIFFJAX_ISA
#undef DIFFJAX_TARGET
#undef DIFFJAX_BYTES

#if defined(__x86_64__)
#define DIFFJAX_ISA avx2
#define DIFFJAX_TARGET __attribute__((target("avx2")))
#define DIFFJAX_BYTES 32
#include "find_node.h"
#undef DIFFJAX_ISA
#undef DIFFJAX_TARGET
#undef DIFFJAX_BYTES
#endif

namespace diffjax {
namespace {

// Neighbour lists with the search for the best instructions of this processor.
NeighborLists make_lists(ffi::BufferR2<ffi::S32> indices) {
  const auto shape = indices.dimensions();
  NeighborLists lists{indices.typed_data(), shape[0], shape[1], baseline::find_node};
#if defined(__x86_64__)
  if (has_avx2()) lists.find_node = avx2::find_node;
#endif
  return lists;
}

ffi::Error find_mutual_slots(ffi::ThreadPool pool, ffi::BufferR2<ffi::S32> indices,
                             ffi::ResultBufferR2<ffi::S32> reverse_slots) try {
  require(indices.dimensions() == reverse_slots->dimensions(),
          "there must be one reverse slot per index");
  Workers workers(pool);
  mutual_slots(make_lists(indices), workers, reverse_slots->typed_data());
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
}

template <ffi::DataType Type>
ffi::Error rows(ffi::ThreadPool pool, bool mutual, ffi::BufferR2<ffi::S32> indices,
                ffi::BufferR2<Type> numbers, ffi::BufferR2<ffi::S32> reverse_slots,
                ffi::AnyBuffer starts, ffi::ResultBufferR1<ffi::S32> columns,
                ffi::ResultBufferR1<Type> weights) try {
  using T = Number<Type>;
  require(indices.dimensions() == numbers.dimensions(),
          "there must be one number per index");
  require(!mutual || indices.dimensions() == reverse_slots.dimensions(),
          "there must be one slot per index");
  const Csr<T> rows_of_starts = make_matrix(
      weights->typed_data(), columns->typed_data(), columns->element_count(), starts);
  require(columns->element_count() == weights->element_count(),
          "columns and weights must be of one length");
  const NeighborLists lists = make_lists(indices);
  require(rows_of_starts.rows == lists.nodes,
          "starts must have one entry more than lists");
  const RowWriter<T> writer(rows_of_starts, columns->typed_data(),
                            weights->typed_data());
  Workers workers(pool);
  if (mutual) {
    mutual_rows(lists, numbers.typed_data(), reverse_slots.typed_data(), writer,
                workers);
  } else {
    compress_rows(lists, numbers.typed_data(), writer, workers);
  }
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
}

auto bind_slots() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::BufferR2<ffi::S32>>()
      .Ret<ffi::BufferR2<ffi::S32>>();
}

template <ffi::DataType Type>
auto bind_rows() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<bool>("mutual")
      .Arg<ffi::BufferR2<ffi::S32>>()
      .template Arg<ffi::BufferR2<Type>>()
      .template Arg<ffi::BufferR2<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Ret<ffi::BufferR1<ffi::S32>>()
      .template Ret<ffi::BufferR1<Type>>();
}

}  // namespace
}  // namespace diffjax

using xla::ffi::F32;
using xla::ffi::F64;

extern "C" {

DIFFJAX_HANDLER(diffjax_list_rows_float32, rows<F32>, bind_rows<F32>())
DIFFJAX_HANDLER(diffjax_list_rows_float64, rows<F64>, bind_rows<F64>())
DIFFJAX_HANDLER(diffjax_mutual_slots_int32, find_mutual_slots, bind_slots())

}  // extern "C"
