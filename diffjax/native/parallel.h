// Loops shared out among the threads of XLA and the thread that asks.

#ifndef DIFFJAX_NATIVE_PARALLEL_H_
#define DIFFJAX_NATIVE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace diffjax {

// XLA's own threads are used, and none are made: they are as many as the process may
// use processors, and know of each other's work.
class Workers {
 public:
  explicit Workers(xla::ffi::ThreadPool pool)
      : pool_(pool), threads_(std::max<int64_t>(pool.num_threads(), 1)) {}

  int64_t threads() const { return threads_; }

  // Calls body(part) for every part in 0..parts-1, in any order, and returns when all
  // calls have. The asking thread takes parts like any other and waits for nobody who
  // has not taken one, so a loop ends even if all threads of XLA are busy, or each of
  // them is inside a loop of its own. What a body throws, such as that there is no
  // memory, is thrown here once all parts have ended: in a thread of XLA it would end
  // the process, and here too early, while others still look at `body`.
  template <typename Body>
  void for_each(int64_t parts, const Body& body) {
    const int64_t helpers = std::min(threads_, parts) - 1;
    if (helpers <= 0) {
      for (int64_t part = 0; part < parts; ++part) body(part);
      return;
    }
    auto shared = std::make_shared<Shared>(parts);
    for (int64_t helper = 0; helper < helpers; ++helper) {
      // A helper that comes too late finds no part left and never looks at `body`,
      // which is gone by then; what it does look at, it owns.
      pool_.Schedule([shared, &body] { shared->take(body); });
    }
    shared->take(body);
    shared->wait();
  }

 private:
  struct Shared {
    explicit Shared(int64_t parts) : parts(parts) {}

    template <typename Body>
    void take(const Body& body) {
      for (int64_t part; (part = next.fetch_add(1)) < parts;) {
        try {
          body(part);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!thrown) thrown = std::current_exception();
        }
        if (done.fetch_add(1) + 1 == parts) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }

    void wait() {
      std::unique_lock<std::mutex> lock(mutex);
      finished.wait(lock, [this] { return done.load() == parts; });
      if (thrown) std::rethrow_exception(thrown);
    }

    const int64_t parts;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    std::mutex mutex;
    std::condition_variable finished;
    std::exception_ptr thrown;
  };

  xla::ffi::ThreadPool pool_;
  int64_t threads_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_PARALLEL_H_
