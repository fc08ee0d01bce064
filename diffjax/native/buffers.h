// Conversion of XLA FFI buffers to the matrices of the kernels.

#ifndef DIFFJAX_NATIVE_BUFFERS_H_
#define DIFFJAX_NATIVE_BUFFERS_H_

#include <cstdint>
#include <stdexcept>

#include "csr.h"
#include "xla/ffi/api/ffi.h"

#define DIFFJAX_EXPORT __attribute__((visibility("default")))

#define DIFFJAX_HANDLER(symbol, function, binding)                           \
  DIFFJAX_EXPORT XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {           \
    static auto* handler = diffjax::binding.To(diffjax::function).release(); \
    return handler->Call(frame);                                             \
  }

namespace diffjax {

namespace ffi = xla::ffi;

// Whether this processor, not that of the build machine, has AVX2 and FMA.
inline bool has_avx2() {
#if defined(__x86_64__)
  static const bool has =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
#else
  return false;
#endif
}

inline void require(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

template <ffi::DataType Type>
using Number = ffi::NativeType<Type>;

template <typename T>
Csr<T> make_matrix(const T* weights, const int32_t* indices, int64_t entries,
                   ffi::AnyBuffer starts) {
  require(starts.dimensions().size() == 1 && starts.element_count() > 0,
          "starts must have one entry more than there are rows");
  Csr<T> a{};
  a.weights = weights;
  a.indices = indices;
  a.rows = static_cast<int64_t>(starts.element_count()) - 1;
  a.entries = entries;
  if (starts.element_type() == ffi::S64) {
    a.starts64 = starts.typed_data<int64_t>();
  } else {
    require(starts.element_type() == ffi::S32, "starts must be int32 or int64");
    a.starts32 = starts.typed_data<int32_t>();
  }
  return a;
}

template <ffi::DataType Type>
Csr<Number<Type>> read_matrix(ffi::BufferR1<Type> weights,
                              ffi::BufferR1<ffi::S32> indices, ffi::AnyBuffer starts) {
  require(indices.element_count() == weights.element_count(),
          "indices and weights must be of one length");
  return make_matrix<Number<Type>>(weights.typed_data(), indices.typed_data(),
                                   weights.element_count(), starts);
}

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_BUFFERS_H_
