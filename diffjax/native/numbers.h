// Memory for blocks of columns.

#ifndef DIFFJAX_NATIVE_NUMBERS_H_
#define DIFFJAX_NATIVE_NUMBERS_H_

#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace diffjax {

// Numbers that are not set to anything, in pages that suit them.
template <typename T>
class Numbers {
 public:
  explicit Numbers(int64_t count)
      : alignment_(count * static_cast<int64_t>(sizeof(T)) < kHugePage ? kLine
                                                                        : kHugePage),
        numbers_(static_cast<T*>(
            ::operator new(count * sizeof(T), std::align_val_t(alignment_)))) {
#if defined(__linux__)
    // Rows are gathered from all over a block: with few pages to look up it is faster,
    // and so is the first touch of each. Only a wish; that it fails does no harm.
    if (alignment_ == kHugePage) madvise(numbers_, count * sizeof(T), MADV_HUGEPAGE);
#endif
  }
  ~Numbers() { ::operator delete(numbers_, std::align_val_t(alignment_)); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  T* get() const { return numbers_; }
  T& operator[](int64_t at) const { return numbers_[at]; }

 private:
  static constexpr int64_t kLine = 64, kHugePage = 1 << 21;
  const int64_t alignment_;
  T* const numbers_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_NUMBERS_H_
