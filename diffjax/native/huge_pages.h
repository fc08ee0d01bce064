// Allocation of large arrays in huge pages: blocks of columns, rows of a graph.

#ifndef DIFFJAX_NATIVE_HUGE_PAGES_H_
#define DIFFJAX_NATIVE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace diffjax {

constexpr size_t kHugePage = size_t{1} << 21;

// Allocates memory aligned to a huge page, in huge pages if the system has them.
inline void* allocate_pages(size_t bytes) {
  void* pages = ::operator new(bytes, std::align_val_t(kHugePage));
#if defined(__linux__)
  // Rows are gathered from all over a block, which is faster with few pages to look up,
  // and so is the first touch of each page. Addresses within one page also have no
  // chance conflicts in the cache, as small pages can. The advice may fail harmlessly.
  madvise(pages, bytes, MADV_HUGEPAGE);
#endif
  return pages;
}

inline void free_pages(void* pages) {
  ::operator delete(pages, std::align_val_t(kHugePage));
}

// Uninitialised array of numbers, in huge pages if it is large enough.
template <typename T>
class PagedArray {
 public:
  explicit PagedArray(int64_t count)
      : is_paged_(count * sizeof(T) >= kHugePage),
        numbers_(static_cast<T*>(is_paged_
                                     ? allocate_pages(count * sizeof(T))
                                     : ::operator new(count * sizeof(T), kLine))) {}
  ~PagedArray() {
    if (is_paged_) {
      free_pages(numbers_);
    } else {
      ::operator delete(numbers_, kLine);
    }
  }
  PagedArray(const PagedArray&) = delete;
  PagedArray& operator=(const PagedArray&) = delete;
  T* get() const { return numbers_; }
  T& operator[](int64_t index) const { return numbers_[index]; }

 private:
  static constexpr auto kLine = std::align_val_t(64);
  const bool is_paged_;
  T* const numbers_;
};

// Allocator of vectors: whole huge pages for large vectors.
template <typename T>
struct HugePages {
  using value_type = T;

  HugePages() = default;
  template <typename U>
  HugePages(const HugePages<U>&) {}

  T* allocate(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes < kMinPagedBytes) return static_cast<T*>(::operator new(bytes));
    return static_cast<T*>(
        allocate_pages((bytes + kHugePage - 1) / kHugePage * kHugePage));
  }

  void deallocate(T* numbers, size_t count) {
    if (count * sizeof(T) < kMinPagedBytes) {
      ::operator delete(numbers);
    } else {
      free_pages(numbers);
    }
  }

  bool operator==(const HugePages&) const { return true; }
  bool operator!=(const HugePages&) const { return false; }

 private:
  static constexpr size_t kMinPagedBytes = kHugePage / 16;
};

template <typename T>
using PagedVector = std::vector<T, HugePages<T>>;

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_HUGE_PAGES_H_
