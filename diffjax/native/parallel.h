// Parallel loops over the threads of XLA and the calling thread.

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

// Runs loops on XLA's own threads, without creating any: their number is that of the
// processors that the process may use, and they share one queue of work.
class Workers {
 public:
  explicit Workers(xla::ffi::ThreadPool pool)
      : pool_(pool), threads_(std::max<int64_t>(pool.num_threads(), 1)) {}

  int64_t threads() const { return threads_; }

  // Calls body(part) for every part in 0..parts-1, in any order, and returns when all
  // calls have returned. The calling thread takes parts like any other and waits only
  // for threads that have taken one, so a loop ends even if all threads of XLA are busy
  // or inside another loop. An exception of a body, such as a failed allocation, is
  // rethrown here after all parts have ended: in a thread of XLA it would end the
  // process, and earlier other threads would still use `body`.
  template <typename Body>
  void for_each(int64_t parts, const Body& body) {
    const int64_t helpers = std::min(threads_, parts) - 1;
    if (helpers <= 0) {
      for (int64_t part = 0; part < parts; ++part) body(part);
      return;
    }
    auto shared = std::make_shared<Shared>(parts);
    for (int64_t helper = 0; helper < helpers; ++helper) {
      // A helper that starts too late finds no part and does not use `body`, which may
      // be destroyed by then; it owns `shared`.
      pool_.Schedule([shared, &body] { shared->run_parts(body); });
    }
    shared->run_parts(body);
    shared->wait();
  }

 private:
  struct Shared {
    explicit Shared(int64_t parts) : parts(parts) {}

    template <typename Body>
    void run_parts(const Body& body) {
      for (int64_t part; (part = next_part.fetch_add(1)) < parts;) {
        try {
          body(part);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!exception) exception = std::current_exception();
        }
        if (num_done.fetch_add(1) + 1 == parts) {
          std::lock_guard<std::mutex> lock(mutex);
          all_done.notify_all();
        }
      }
    }

    void wait() {
      std::unique_lock<std::mutex> lock(mutex);
      all_done.wait(lock, [this] { return num_done.load() == parts; });
      if (exception) std::rethrow_exception(exception);
    }

    const int64_t parts;
    std::atomic<int64_t> next_part{0};
    std::atomic<int64_t> num_done{0};
    std::mutex mutex;
    std::condition_variable all_done;
    std::exception_ptr exception;
  };

  xla::ffi::ThreadPool pool_;
  int64_t threads_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_PARALLEL_H_
